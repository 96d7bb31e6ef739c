"""A guard with an arm, a policy and clocks around it, for tests; every input can be withheld or spoilt."""

import dataclasses

import numpy as np

from policy.guard import ChunkMessage, Guard, GuardCommand, GuardConfig, GuardState
from wam.robot import RobotSpec, load_robot

ROBOT = load_robot("sim6")
WIDTH = ROBOT.action_dim
DT = 1 / ROBOT.safety.guard_rate_hz
HOME = np.clip(np.zeros(WIDTH), ROBOT.lower + 0.3, ROBOT.upper - 0.3).astype(np.float64)


class Rig:
    """Steps the guard at its rate; the arm goes where it is told, one tick late."""

    def __init__(self, robot: RobotSpec = ROBOT, config: GuardConfig | None = None, **options) -> None:
        self.robot = robot
        self.guard = Guard(robot, config, **options)
        self.now, self.robot_now = 100.0, 5000.0
        self.arm = HOME.copy()
        self.sequence, self.epoch = -1, 7
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
        )
        return dataclasses.replace(message, **changes)

    def send(self, target=None, **changes) -> str:
        """Sends the next chunk; returns the refusal."""
        return self.guard.on_chunk(self.message(target, **changes), self.now, self.robot_now)

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
