"""What reaches a guard when the rest of the graph misbehaves: the guard is a real process, the rest is spoilt."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.publisher import Publisher  # noqa: E402
from std_msgs.msg import Bool, Empty  # noqa: E402
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: E402

from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.diagnostics import values_of  # noqa: E402
from tests.ros_fake_policy import ROBOT, SWING  # noqa: E402
from tests.ros_fakes import HOME, NAMES, FakePolicyTimer, FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import Graph, Heard  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402

STATES_LOST_S = 0.17


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with Graph(tmp_path_factory.mktemp("faults")) as graph:
        graph.start("guard", f"robot:={patient_robot(graph.folder)}")
        yield graph


@pytest.fixture(scope="module")
def robot(graph: Graph) -> FakeRobot:
    return FakeRobot(graph)


@pytest.fixture(scope="module")
def policy(graph: Graph, robot: FakeRobot) -> FakePolicyTimer:
    return FakePolicyTimer(graph, robot)


@pytest.fixture(scope="module")
def watch(graph: Graph) -> GuardWatch:
    return GuardWatch(graph)


@pytest.fixture(scope="module")
def reports(graph: Graph) -> Heard:
    return graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS)


@pytest.fixture
def running(graph: Graph, robot: FakeRobot, policy: FakePolicyTimer, watch: GuardWatch) -> GuardWatch:
    policy.on, policy.spoil = True, lambda message: None  # whatever a failing test left
    robot.offset[:], robot.names = 0.0, list(NAMES)
    graph.until(lambda: watch.values.get("state") in {"HOLD", "FAULT", "RUN_POLICY"}, "the guard has joint states")
    if watch.values["state"] != "RUN_POLICY":  # a test or a busy machine left it: begin where the policy swings
        robot.go_home()
        robot.obeys = False  # a guard that holds it elsewhere would take it back there
        sent = len(robot.sent)
        graph.until(lambda: len(robot.sent) > sent + 10, "the robot says where it is")

        def held_at_home() -> bool:
            graph.insist("guard/reset")
            return np.abs(watch.commanded() - HOME).max() < 0.02

        graph.until(held_at_home, "the guard takes hold of the robot where it is")
        robot.obeys = True
    watch.run()
    graph.until(lambda: np.abs(watch.commanded() - HOME).max() < SWING + 0.05, "the arm swings about where it is home")
    return watch


def permute(message: JointTrajectory) -> None:
    message.joint_names = message.joint_names[::-1]
    for point in message.points:
        point.positions = point.positions[::-1]


def drop_a_name(message: JointTrajectory) -> None:
    message.joint_names = message.joint_names[:-1]
    for point in message.points:
        point.positions = point.positions[:-1]


def add_a_name(message: JointTrajectory) -> None:
    message.joint_names = [*message.joint_names, "tail"]
    for point in message.points:
        point.positions = [*point.positions, 0.0]


def spoil_number(number: float) -> Callable[[JointTrajectory], None]:
    def spoil(message: JointTrajectory) -> None:
        message.points[5].positions[3] = number

    return spoil


def shorten_a_point(message: JointTrajectory) -> None:
    message.points[5].positions = message.points[5].positions[:-1]


def turn_time_back(message: JointTrajectory) -> None:
    message.points[5].time_from_start = message.points[3].time_from_start


def empty(message: JointTrajectory) -> None:
    message.points = []


def forget_whose(message: JointTrajectory) -> None:
    message.header.frame_id = "base"


SPOILT = {
    "missing joint": (drop_a_name, "lacks gripper"),
    "extra joint": (add_a_name, "has unknown tail"),
    "NaN": (spoil_number(float("nan")), "holds nan for 'forearm_roll' at point 5"),
    "inf": (spoil_number(float("inf")), "holds inf for 'forearm_roll' at point 5"),
    "wrong length": (shorten_a_point, "not an array of numbers"),
    "time goes back": (turn_time_back, "strictly increase"),
    "empty": (empty, "one time per point is needed"),
    "nobody's": (forget_whose, "wam/<session>/<epoch>/<sequence>"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_chunk_is_dropped_whole_and_the_third_in_a_row_latches(
    graph: Graph, running: GuardWatch, policy: FakePolicyTimer, name: str
) -> None:
    spoil, words = SPOILT[name]
    begun, refused = time.monotonic(), running.count("chunks_refused")
    policy.spoil = spoil
    policy.publish()
    policy.on, policy.spoil = False, lambda message: None
    graph.until(
        lambda: running.count("chunks_refused") > refused and words in running.values["last_refusal"],
        f"the spoilt chunk is refused because '{words}'",
    )
    policy.on = True
    running.until("RUN_POLICY")  # one spoilt chunk latches nothing
    policy.spoil = spoil
    running.until("FAULT", reason="3 malformed chunks in a row")
    policy.spoil = lambda message: None
    sequence = policy.sequence
    graph.until(lambda: policy.sequence > sequence + 3, "good chunks follow")
    running.rest()
    assert running.values["state"] == "FAULT"
    running.check_limits(begun)


def test_permuted_joint_names_are_put_in_order(
    graph: Graph, running: GuardWatch, robot: FakeRobot, policy: FakePolicyTimer
) -> None:
    def only_the_first_axis_swings() -> bool:
        return np.abs(running.commanded()[1:] - HOME[1:]).max() < 0.0105  # the gripper keeps a margin to its limit

    graph.until(only_the_first_axis_swings, "the other axes are home, wherever the guard took hold of them")
    begun, accepted, malformed = time.monotonic(), running.count("chunks_accepted"), running.count("chunks_malformed")
    policy.spoil = permute
    robot.names = list(NAMES[::-1])

    def played() -> bool:
        path = running.path(begun)
        return running.count("chunks_accepted") > accepted + 5 and len(path) > 0 and np.ptp(path[:, 0]) > 0.05

    graph.until(played, "permuted chunks move the arm that says where it is in another order")
    policy.spoil, robot.names = lambda message: None, list(NAMES)
    assert running.count("chunks_malformed") == malformed
    path = running.path(begun)
    np.testing.assert_allclose(path[:, 1:], np.tile(HOME[1:], (len(path), 1)), atol=0.011)


def test_joint_states_that_lack_a_joint_are_lost_ones(
    graph: Graph, running: GuardWatch, robot: FakeRobot, reports: Heard
) -> None:
    robot.names = [*NAMES, "tail"]  # more than ours is fine
    sent = len(robot.sent)
    graph.until(lambda: len(robot.sent) > sent + 30, "the robot names a joint of its own")
    running.until("RUN_POLICY")
    robot.names = list(NAMES[:-1])
    spoilt = time.monotonic()
    running.until("HOLD", reason="joint states are", since=spoilt)
    seconds, allowance = running.reaction(spoilt, "HOLD", reason="joint states are")
    assert seconds <= STATES_LOST_S + allowance
    graph.until(
        lambda: any("lacks gripper" in status.message for _, m in reports.items for status in m.status),
        "diagnostics name the joint that is missing",
    )
    robot.names = list(NAMES)
    running.until("RUN_POLICY")  # the guard hears the robot again


def test_a_plan_that_jumps_by_a_radian_and_a_half_is_never_played(
    graph: Graph, running: GuardWatch, policy: FakePolicyTimer
) -> None:
    def teleport(message: JointTrajectory) -> None:
        for point in message.points:
            point.positions[0] += 1.5

    begun, refused = time.monotonic(), running.count("chunks_refused")
    policy.spoil = teleport
    graph.until(lambda: running.count("chunks_refused") > refused, "jumping plans are refused")
    # What played before has run out, or the guard held for want of joint states in between.
    running.until("HOLD", reason="the policy's first action is not where the arm is ('yaw' differs by", since=begun)
    sequence = policy.sequence
    graph.until(lambda: policy.sequence > sequence + 20, "it goes on planning so")
    policy.spoil = lambda message: None
    running.until("RUN_POLICY", since=time.monotonic())
    assert np.abs(running.path(begun)[:, 0] - HOME[0]).max() < SWING + 0.1
    running.check_limits(begun)
    assert running.values["state"] != "FAULT"


def test_a_second_policy_that_was_started_later_does_not_get_the_engaged_arm(
    graph: Graph, running: GuardWatch, robot: FakeRobot, policy: FakePolicyTimer
) -> None:
    rival = FakePolicyTimer(graph, robot)
    rival.epoch = policy.epoch + 1000
    begun = time.monotonic()
    graph.until(lambda: "chunk of another policy" in running.values["last_refusal"], "its chunks are refused")
    running.until("RUN_POLICY", since=begun)
    rival.on = False
    graph.until(lambda: running.values["epoch"] == str(policy.epoch), "the guard plays the engaged one")
    assert rival.epoch not in running.epochs(begun)


def test_a_measured_jump_of_a_radian_and_a_half_is_a_fault(graph: Graph, running: GuardWatch, robot: FakeRobot) -> None:
    begun = time.monotonic()
    robot.offset[1] = -1.5
    running.until("FAULT", reason="'shoulder' is", since=begun)
    # While this process, which is the robot, is not run, or the guard is not, joint states grow old, and what the guard
    # had seen so far is forgotten; it says so.
    ticks = [values_of(message) for _, message in running.states.items]
    fault = next(float(tick["tick_s"]) for tick in ticks if tick["state"] == "FAULT" and float(tick["tick_s"]) > begun)
    old = [float(tick["tick_s"]) for tick in ticks if "joint states are" in tick["reason"]]
    seen = max([begun, *(when for when in old if when < fault)])
    _, allowance = running.reaction(begun, "FAULT")
    assert fault - seen <= ROBOT.safety.tracking_time_s + 0.1 + allowance
    robot.offset[1] = 0.0
    running.check_limits(begun)
    assert not graph.call("guard/engage").success


@pytest.fixture
def button(graph: Graph, watch: GuardWatch) -> Iterator[Publisher]:
    button = graph.node.create_publisher(Bool, "e_stop", qos.LATCHED)
    yield button
    button.publish(Bool(data=False))  # whatever became of the test, the next one begins with a button that is out
    graph.until(lambda: watch.values["e_stop"] == "false", "the button is released")
    graph.node.destroy_publisher(button)


def test_an_e_stop_latches_until_it_is_released_and_reset(graph: Graph, running: GuardWatch, button: Publisher) -> None:
    begun = time.monotonic()  # what came before, the arm put elsewhere for one, is none of this
    graph.until(lambda: button.get_subscription_count() >= 3, "the guard listens to the button")
    for timed in (False, True):  # once to know that the two have found each other
        pressed = time.monotonic()
        button.publish(Bool(data=True))
        acted = time.monotonic()
        running.until("FAULT", reason="e-stop", since=pressed)
        seconds, allowance = running.reaction(pressed, "FAULT", reason="e-stop", acted=acted)
        assert not timed or seconds <= 0.1 + allowance
        running.rest()
        running.check_limits(max(begun, pressed - 0.5))
        assert "pressed" in graph.call("guard/reset").message
        assert "FAULT" in graph.call("guard/engage").message
        button.publish(Bool(data=False))
        graph.until(lambda: running.values["e_stop"] == "false", "the button is released")
        assert running.values["state"] == "FAULT"  # letting go of the button alone moves nothing
        running.run()


@pytest.mark.parametrize("profile", [10, qos.SENSOR], ids=["volatile", "best effort"])
def test_an_e_stop_sent_by_hand_is_not_latched_and_stops_all_the_same(
    graph: Graph, running: GuardWatch, profile: object
) -> None:
    by_hand = graph.node.create_publisher(Bool, "e_stop", profile)

    def stopped() -> bool:
        by_hand.publish(Bool(data=True))
        return running.values["state"] == "FAULT"

    graph.until(stopped, "the guard stops")
    assert running.values["reason"] == "e-stop"

    def released() -> bool:
        by_hand.publish(Bool(data=False))
        return running.values["e_stop"] == "false"

    graph.until(released, "the button is released")
    running.run()
    graph.node.destroy_publisher(by_hand)


def test_the_e_stop_service_stops(graph: Graph, running: GuardWatch) -> None:
    assert graph.call("guard/e_stop").success
    running.until("FAULT", reason="e-stop")
    running.run()


def test_a_chunk_publisher_that_cannot_reach_the_guard_is_named(
    graph: Graph, running: GuardWatch, policy: FakePolicyTimer, reports: Heard
) -> None:
    policy.on = False
    running.until("HOLD", reason="no chunk")
    wrong = graph.node.create_publisher(JointTrajectory, "policy/chunk", qos.SENSOR)  # best effort; reliable is asked

    def named() -> bool:
        status = reports.last.status[0] if reports.items else None
        return status is not None and "'/listener' publishes /policy/chunk" in status.message

    graph.until(named, "diagnostics name the publisher that never reaches the guard")
    assert "reliability reliable" in reports.last.status[0].message
    assert running.values["state"] == "HOLD"
    graph.node.destroy_publisher(wrong)
    policy.on = True
    running.until("RUN_POLICY")


def test_chunks_of_an_earlier_policy_are_refused(graph: Graph, running: GuardWatch, policy: FakePolicyTimer) -> None:
    rival = graph.node.create_publisher(JointTrajectory, "policy/chunk", qos.CHUNK)
    points = [
        JointTrajectoryPoint(positions=[1.0] * 7, time_from_start=messages.to_duration(0.1 * i)) for i in range(4)
    ]
    message = JointTrajectory(joint_names=list(NAMES), points=points)
    message.header.frame_id = messages.chunk_frame_id(policy.epoch, policy.epoch - 1, 10**6)
    begun = time.monotonic()

    def refused() -> bool:
        message.header.stamp = messages.to_time(time.time())
        rival.publish(message)
        return "out of order" in running.values["last_refusal"]

    graph.until(refused, "chunks of the other policy are refused")
    running.until("RUN_POLICY")
    graph.until(lambda: running.values["epoch"] == str(policy.epoch), "the guard plays the engaged one")
    assert policy.epoch - 1 not in running.epochs(begun)
    running.check_limits(begun)
    graph.node.destroy_publisher(rival)


def test_a_heartbeat_that_stops_latches(graph: Graph, running: GuardWatch) -> None:
    heart = graph.node.create_publisher(Empty, "e_stop/heartbeat", 10)
    timer = graph.node.create_timer(0.1, lambda: heart.publish(Empty()))
    graph.until(lambda: running.values["heartbeat"] == "heard", "the guard hears the heartbeat")
    running.run()  # not for want of it: a busy machine may have let it pause
    timer.cancel()
    running.until("FAULT", reason="no heartbeat")
    assert "missing" in graph.call("guard/reset").message
    timer.reset()
    running.run()
    timer.cancel()
    running.replace_guard(str(patient_robot(graph.folder)))  # which expects no heartbeat again
    graph.node.destroy_timer(timer)
    assert running.values["heartbeat"] == "never heard"


def test_a_late_guard_hears_an_e_stop_from_before_its_time(
    graph: Graph, watch: GuardWatch, robot: FakeRobot, policy: FakePolicyTimer
) -> None:
    graph.processes["guard"].leave()
    button = graph.node.create_publisher(Bool, "e_stop", qos.LATCHED)
    button.publish(Bool(data=True))
    graph.start("guard", f"robot:={patient_robot(graph.folder)}")
    watch.until("FAULT", reason="e-stop")
    assert not graph.call("guard/engage").success
    button.publish(Bool(data=False))
    watch.run()
    graph.node.destroy_publisher(button)
