"""A guard with an arm, a policy and clocks around it, for tests; every input can be withheld or spoilt."""

import dataclasses
import math

import numpy as np

from policy.guard import ChunkMessage, Guard, GuardCommand, GuardConfig, GuardState
from wam.robot import RobotSpec, load_robot

ROBOT = load_robot("sim6")
WIDTH = ROBOT.action_dim
DT = 1 / ROBOT.safety.guard_rate_hz
HOME = np.clip(np.zeros(WIDTH), ROBOT.lower + 0.3, ROBOT.upper - 0.3).astype(np.float64)
FAR = HOME + 0.5

# Chunks that must be dropped whole: what is replaced, and what the refusal says.
MALFORMED = {
    "nan": ({"positions": np.full((16, WIDTH), np.nan)}, "chunk holds nan for 'yaw' at point 0: dropped whole"),
    "one inf": (
        {"positions": np.where(np.arange(16)[:, None] == 9, np.inf, np.zeros(WIDTH))},
        "inf for 'yaw' at point 9",
    ),
    "degrees of a disc": ({"positions": np.full((16, WIDTH), 4e4)}, "chunk holds 40000.0 for 'yaw'"),
    "missing name": ({"names": ROBOT.action_names[:-1]}, "lacks gripper; robot 'sim6' has exactly yaw"),
    "extra name": (
        {"names": (*ROBOT.action_names, "tail"), "positions": np.zeros((16, WIDTH + 1))},
        "has unknown tail",
    ),
    "wrong name": ({"names": ("jaw", *ROBOT.action_names[1:])}, "lacks yaw; has unknown jaw"),
    "name twice": ({"names": (ROBOT.action_names[0], *ROBOT.action_names[:-1])}, "lacks gripper"),
    "degrees": ({"positions": np.full((16, WIDTH), 59.9)}, "chunk wants 59.900 for"),
    "gripper of 0 to 100": (
        {"positions": np.tile(np.append(HOME[:-1], 10.0), (16, 1))},
        "chunk wants 10.000 for 'gripper' at point 0, whose range is [0, 1]: another unit (degrees, 0 to 100)",
    ),
    "one wild action": (
        {"positions": np.where(np.arange(16)[:, None] == 11, HOME + [0, 2.3, 0, 0, 0, 0, 0], HOME)},
        "chunk wants 2.300 for 'shoulder' at point 11",
    ),
    "not stamped": ({"stamp": 0.0}, "chunk is not stamped (header.stamp is 0)"),
    "no names": ({"names": ()}, "joint names none: lacks yaw"),
    "too wide": ({"positions": np.zeros((16, WIDTH + 1))}, "has 7 names for 8 columns"),
    "empty": ({"positions": np.zeros((0, WIDTH)), "times_s": np.zeros(0)}, "chunk has 0 points but needs at least 2"),
    "one point": (
        {"positions": np.zeros((1, WIDTH)), "times_s": np.zeros(1)},
        "chunk has 1 points but needs at least 2",
    ),
    "wrong length": ({"times_s": np.arange(15) * 0.1}, "positions (16, 7) and times (15,): one time per point"),
    "flat": ({"positions": np.zeros(16)}, "positions (16,) and times (16,)"),
    "standing time": ({"times_s": np.zeros(16)}, "must start at 0 or later, strictly increase"),
    "backward time": ({"times_s": -np.arange(16) * 0.1}, "strictly increase"),
    "nan time": ({"times_s": np.full(16, np.nan)}, "strictly increase"),
    "milliseconds": ({"times_s": np.arange(16) * 100.0}, "end within 60 s"),
    "nan stamp": ({"stamp": math.nan}, "chunk stamp is nan"),
    "words": ({"positions": [["a"] * WIDTH] * 16}, "positions are not an array of numbers"),
    "ragged": ({"positions": [[0.0] * WIDTH] * 15 + [[0.0]]}, "positions are not an array of numbers"),
}


class Rig:
    """Steps the guard at its rate; the arm goes where it is told, one tick late."""

    def __init__(self, robot: RobotSpec = ROBOT, config: GuardConfig | None = None, **options) -> None:
        self.robot = robot
        self.guard = Guard(robot, config, **options)
        self.now, self.robot_now = 100.0, 5000.0
        self.arm = HOME.copy()
        self.sequence, self.epoch = -1, 7
        self.session: int | None = None  # start of the policy; None: every epoch is one
        self.states = True  # whether joint states arrive
        self.commands: list[GuardCommand] = []
        self.dts: list[float] = []
        self.follows = True  # whether the arm follows its commands

    @property
    def command(self) -> GuardCommand:
        """The newest one."""
        return self.commands[-1]

    @property
    def state(self) -> GuardState:
        """As of the newest tick."""
        return self.command.state

    def tick(self, count: int = 1, dt: float = DT) -> GuardCommand:
        """Passes time."""
        for _ in range(count):
            self.now += dt
            self.robot_now += dt
            if self.states:
                self.guard.on_state(self.robot_now, self.arm.astype(np.float32), self.now)
            self.commands.append(self.guard.tick(self.now, self.robot_now))
            self.dts.append(dt)
            if self.follows and self.command.positions is not None:
                self.arm = self.command.positions.copy()
        return self.command

    def message(self, target=None, *, points: int = 16, **changes) -> ChunkMessage:
        """The policy's next chunk: a straight line from the arm to a target, or any field replaced."""
        self.sequence += 1
        target = self.arm if target is None else np.asarray(target, dtype=float)
        share = ((1 + np.arange(points)) / points)[:, None]
        message = ChunkMessage(
            names=self.robot.action_names,
            times_s=np.arange(points) * self.robot.control_dt,
            positions=self.arm + share * (target - self.arm),
            stamp=self.robot_now,
            epoch=self.epoch,
            sequence=self.sequence,
            session=self.session,
        )
        return dataclasses.replace(message, **changes)

    def send(self, target=None, **changes) -> str:
        """Sends the next chunk; returns the refusal."""
        return self.guard.on_chunk(self.message(target, **changes), self.now, self.robot_now)

    def rush(self, target, *, points: int = 16, speed: float = 2.0, **changes) -> str:
        """Sends a chunk from the commanded position to a target, as fast as a plan may go, whatever the arm does."""
        start = self.arm if self.command.positions is None else self.command.positions
        way = np.asarray(target, dtype=float) - start
        reach = speed * self.robot.control_dt * (1 + np.arange(points))[:, None]
        return self.send(positions=start + np.clip(way, -reach, reach), **changes)

    def teleop(self, positions, names=None) -> str:
        """Sends one command of a person."""
        names = self.robot.action_names if names is None else names
        return self.guard.on_teleop(names, np.asarray(positions, dtype=float), self.robot_now, self.now)

    def run_policy(self, target=None, *, ticks: int = 25, every: int = 7) -> None:
        """Lets a policy that wants to go to a target control the arm."""
        for count in range(ticks):
            if count % every == 0:
                assert self.send(target) == ""
            self.tick()

    def engaged(self, target=None) -> "Rig":
        """Brings the arm into RUN_POLICY."""
        self.tick(3)
        assert self.send(target) == ""
        assert self.guard.engage(self.now) == (True, "engaged")
        self.tick()
        assert self.state is GuardState.RUN_POLICY
        return self

    def violations(self) -> list[str]:
        """Broken limits in everything that was commanded since the last tick without a command."""
        fastest = np.array([axis.max_velocity for axis in self.robot.axes])
        hardest = np.array([axis.max_acceleration for axis in self.robot.axes])
        found, last, speed = [], None, np.zeros(WIDTH)
        for number, (command, dt) in enumerate(zip(self.commands, self.dts, strict=True)):
            positions = command.positions
            if positions is None:
                last, speed = None, np.zeros(WIDTH)
                continue
            if not (np.isfinite(positions).all() and np.isfinite(command.velocities).all()):
                found.append(f"tick {number}: not finite")
            if last is not None and dt > 0:
                velocity = (positions - last) / dt
                change = np.abs(velocity - speed) / dt
                found += [f"tick {number}: velocity {velocity}"] * bool((np.abs(velocity) > fastest).any())
                found += [f"tick {number}: acceleration {change}"] * bool((change > hardest).any())
                np.testing.assert_allclose(velocity, command.velocities, atol=1e-9)
                speed = velocity
            last = positions
        return found

    def forget_commands(self) -> None:
        """After something that may place the command anew (``reset``)."""
        self.commands.clear()
        self.dts.clear()


def moving(target=FAR, *, ticks: int = 25) -> Rig:
    """An arm that the policy is moving at some speed."""
    rig = Rig().engaged(target)
    rig.run_policy(target, ticks=ticks)
    assert np.abs(rig.command.velocities).max() > 0.2
    return rig


def seconds_to(rig: Rig, state: GuardState, *, limit_s: float = 2.0) -> float:
    """Ticks until a state is reached; returns the time that took [s]."""
    begun = rig.now
    while rig.state is not state:
        rig.tick()
        assert rig.now - begun < limit_s, f"never reached {state}"
    return rig.now - begun


def brakes(rig: Rig) -> None:
    """The arm comes to rest within its braking distance and stays there."""
    speed = np.abs(rig.command.velocities)
    start = rig.command.positions.copy()
    hardest = np.array([axis.max_acceleration for axis in ROBOT.axes])
    rig.tick(math.ceil((speed / hardest).max() / DT) + 1)
    assert np.abs(rig.command.velocities).max() < 1e-5
    assert (np.abs(rig.command.positions - start) <= speed**2 / (2 * hardest) + 1e-6).all()
    rest = rig.command.positions
    rig.tick(10)
    np.testing.assert_allclose(rig.command.positions, rest, atol=1e-6)
    assert rig.violations() == []
