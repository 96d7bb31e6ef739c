"""The policy: observations in, action chunks out, at a steady rate; the network runs in a thread of its own.

A lifecycle node: *configure* opens the bundle and checks it against the robot (one clear error, and the node stays
unconfigured while the guard holds the arm), *activate* listens and plans. With ``autostart`` it does both by itself.
A tick without a usable observation plans nothing and is counted.

With ``check_cameras`` the daily check of ``wam calibrate check`` runs before every activation, on pictures of that
moment: *warn* says in the diagnostics which camera has moved and plans all the same, *refuse* does not activate.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from policy.load import load_policy
from policy.runner import Policy
from ros_nodes import spinning
from ros_nodes.camera_check import CameraCheck
from ros_nodes.diagnostics import ERROR, WARN, DiagnosticsReporter, Health
from ros_nodes.errors import GraphError
from ros_nodes.imagination import Imagination
from ros_nodes.parameters import declare
from ros_nodes.planning import Planning, longest_aside_s
from ros_nodes.policy_parameters import PolicyParameters
from ros_nodes.policy_report import CHUNK_TOPIC_KEY
from ros_nodes.policy_rivals import CHUNK_TOPIC, Rivals
from ros_nodes.timing import robot_and_steady_time
from ros_nodes.topics import load_robot_of
from wam.errors import WamError
from wam.robot import RobotSpec, robot_file

__all__ = ["PolicyNode", "PolicyParameters", "main"]

LISTEN_S = 3.0  # before it starts by itself, a policy listens this long for another one: diagnostics come every second
PAUSE_S = 1.0  # after a pause as long as this it begins to listen anew
CAMERAS_S = 30.0  # and this long for the first pictures, where they are to be checked
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class PolicyNode(LifecycleNode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("policy")
        self._p = declare(self, PolicyParameters)
        self._born = time.monotonic()
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._idle = Health(level=WARN, message="not configured")  # what is said while nothing is planned
        self._loaded: tuple[RobotSpec, Policy, Imagination | None] | None = None
        self._planning: Planning | None = None
        self._check: CameraCheck | None = None  # listens from configuration to activation
        self._cameras: dict[str, str] = {}  # what the last check said, by camera
        self._moved = ""  # warning of the last check
        self._rivals = Rivals(self)
        self._reporter = DiagnosticsReporter(self, self._health)
        self.create_service(Trigger, "policy/reset", self._reset)
        self.create_timer(1.0 / self._p.rate_hz, self._tick, clock=self._steady)
        self._starting = self._p.autostart
        self._listened = 0  # ticks in a row since the bundle is open
        self._ticked = 0.0  # steady time of the newest of them [s]

    def destroy_node(self) -> None:
        """Ends inference first."""
        if hasattr(self, "_planning"):  # a node whose constructor raised is destroyed as well
            self._stop("shut down")
        super().destroy_node()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Opens the bundle."""
        return self._transition("configure", self._load)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Listens to the robot and plans, unless another policy does."""
        return self._transition("activate", self._plan)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops planning; the guard brakes and holds."""
        self._stop("configured, not active")
        self._listen_to_cameras()
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Closes the bundle."""
        self._stop("not configured")
        self._forget_cameras()
        self._loaded = None
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stops planning for good."""
        self._stop("shut down")
        return SUCCESS

    def _load(self) -> None:
        p = self._p
        robot = load_robot_of(self, p.robot)
        policy = load_policy(
            p.bundle, robot, backend=p.backend, n_steps=p.n_steps or None, threads=p.threads or None, device=p.device
        )
        policy.instructions.check(p.task)
        imagination = None
        if p.publish_imagined:
            longest_s = longest_aside_s(robot, p.rate_hz)
            imagination = Imagination(policy, robot, rate_hz=p.imagined_rate_hz, longest_s=longest_s)
        self._loaded = (robot, policy, imagination)
        self._listen_to_cameras()
        self._idle = Health(level=WARN, message="configured, not active")
        self.get_logger().info(f"bundle {p.bundle} on {policy.backend_name}, {policy.device}")
        self.get_logger().info(f"trained on {policy.instructions}")

    def _plan(self) -> None:
        assert self._loaded is not None
        rival = self._rivals.active()
        if rival:
            raise GraphError(f"another policy plans for this robot: {rival}. Stop one of them: both would move the arm")
        robot, policy, imagination = self._loaded
        self._check_cameras()
        self._planning = Planning(self, policy, robot, self._p, self._rivals, imagination)

    def _listen_to_cameras(self) -> None:
        """Before an activation, where the parameter asks for the check."""
        self._forget_cameras()
        if self._loaded is not None and self._p.check_cameras != "off":
            self._check = CameraCheck(self, self._loaded[0], robot_file(self._p.robot))

    def _forget_cameras(self) -> None:
        if self._check is not None:
            self._check.close()
            self._check = None

    def _check_cameras(self) -> None:
        if self._check is None:
            return
        verdicts = self._check.judge()
        self._cameras = {f"camera_check {verdict.camera}": verdict.text for verdict in verdicts}
        self._moved = " ".join(verdict.text for verdict in verdicts if not verdict.ok)
        if self._moved and self._p.check_cameras == "refuse":
            raise GraphError(f"{self._moved} Put it right, then activate the policy again or restart it.")
        for verdict in verdicts:
            if verdict.ok:
                self.get_logger().info(verdict.text)
            else:
                self.get_logger().warning(verdict.text)
        self._forget_cameras()

    def _transition(self, name: str, act: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            act()
        except WamError as error:
            problem = f"cannot {name}: {error}"
            self.get_logger().error(problem)
            self._idle = Health(level=ERROR, message=problem)
            self._reporter.report()
            return FAILURE
        except Exception:  # rclpy would swallow it
            self.get_logger().error(traceback.format_exc())
            raise
        return SUCCESS

    def _stop(self, message: str) -> None:
        if self._planning is not None:
            self._planning.close()
            self._planning = None
        self._idle = Health(level=WARN, message=message)

    def _tick(self) -> None:
        if self._planning is not None:
            if self._rivals.newer_than(self._planning.session):
                self._yield()
                return
            robot_now, now = robot_and_steady_time(self)
            self._planning.tick(now, robot_now)
        elif self._starting:
            self._start()

    def _start(self) -> None:
        """One step of the autostart: configure, listen for a while, activate; a step that fails is the last."""
        if self._loaded is None:
            self._starting = self.trigger_configure() == SUCCESS
            return
        # Counted in ticks, between which messages are handled: opening the bundle takes seconds in which none is, and
        # after a pause of this process a rival's wait behind the tick.
        now = time.monotonic()
        self._listened = self._listened + 1 if now - self._ticked < PAUSE_S else 0
        self._ticked = now
        if self._listened > LISTEN_S * self._p.rate_hz and not self._awaits_cameras():
            self._starting = False
            self.trigger_activate()

    def _awaits_cameras(self) -> bool:
        return self._check is not None and not self._check.ready and time.monotonic() < self._born + CAMERAS_S

    def _yield(self) -> None:
        """Of two policies the one that was started last is wanted: the older ends, and the guard waits for engage."""
        problem = f"another policy took over: {self._rivals.active()}"
        self.get_logger().error(problem)
        self.trigger_deactivate()
        self._idle = Health(level=ERROR, message=problem)

    def _reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        answer.success = self._planning is not None
        answer.message = "reset" if self._planning is not None else f"nothing to reset: {self._idle.message}"
        if self._planning is not None:
            self._planning.reset()
        return answer

    def _health(self) -> Health:
        health = self._idle if self._planning is None else self._planning.health()
        if self._planning is not None and self._moved:
            health = replace(health, level=max(health.level, WARN), message=f"{health.message}; {self._moved}")
        topic = {CHUNK_TOPIC_KEY: self.resolve_topic_name(CHUNK_TOPIC)}
        return replace(health, values={**health.values, **self._cameras, **topic})


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the node."""
    spinning.run(PolicyNode, argv)


if __name__ == "__main__":
    main()
