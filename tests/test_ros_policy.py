"""The policy node as a process, with an untrained bundle: what it says, and what it does when its inputs go wrong."""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from sensor_msgs.msg import CompressedImage  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from trajectory_msgs.msg import JointTrajectory  # noqa: E402

from policy.wire import stamp_seconds  # noqa: E402
from ros_nodes import qos  # noqa: E402
from ros_nodes.diagnostics import ERROR, values_of  # noqa: E402
from ros_nodes.messages import chunk_frame_id, parse_chunk_frame_id, trajectory_chunk  # noqa: E402
from tests.ros_fakes import FakeRobot, patient_robot  # noqa: E402
from tests.ros_graph import PATIENCE, Graph, Heard  # noqa: E402
from tests.ros_guard_watch import GuardWatch  # noqa: E402
from wam.robot import RobotSpec, load_robot  # noqa: E402

POLICY_LOST_S = 0.40  # gate: from the last sign of life to the hold
TASK = "task:=reach the red cube"


@dataclass(kw_only=True)
class Scene:
    """A guard and a policy as processes, and a robot that can be spoilt."""

    graph: Graph
    robot: FakeRobot
    watch: GuardWatch
    reports: Heard
    bundle: Path
    robot_file: Path
    started_ns: int = 0  # when the newest policy was started; what one before it still says comes from before

    def start_policy(self, *parameters: str) -> None:
        """Starts the policy, or starts it again."""
        self.start_any(self.bundle, self.robot_file, *parameters)

    def start_any(self, bundle: Path, robot_file: Path, *parameters: str) -> None:
        """Starts a policy of any bundle for any robot, in place of the one before."""
        if "policy" in self.graph.processes:
            self.graph.processes["policy"].leave()
        self.started_ns = time.time_ns()
        self.graph.start("policy", f"bundle:={bundle}", f"robot:={robot_file}", *parameters)

    def policy(self) -> dict[str, str]:
        """Newest diagnostics of the policy; its message as ``message``."""
        return policy_report(self.reports, since_ns=self.started_ns)


def policy_report(reports: Heard, name: str = "policy", *, since_ns: int = 0) -> dict[str, str]:
    for (_, message), info in zip(reversed(reports.items), reversed(reports.infos), strict=True):
        for status in message.status:
            if status.name == name and info["source_timestamp"] > since_ns:
                return {**values_of(status), "message": status.message, "level": str(status.level)}
    return {"message": ""}


def brave_robot(folder: Path, **safety: float) -> Path:
    """Robot file of sim6 whose guard engages on the far-away first action of an untrained policy, and is patient."""
    return patient_robot(folder, engage_error=4.0, **safety)


def untrained_bundle(folder: Path, robot: RobotSpec) -> Path:
    from wam.export import export_bundle
    from wam.untrained import save_untrained_checkpoint

    checkpoint = save_untrained_checkpoint(folder / "run", robot, preset_name="micro")
    export_bundle(checkpoint, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="module")
def robot_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brave_robot(tmp_path_factory.mktemp("robots"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, robot_file: Path) -> Path:
    return untrained_bundle(tmp_path_factory.mktemp("untrained"), load_robot(robot_file))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, bundle: Path, robot_file: Path) -> Iterator[Scene]:
    with Graph(tmp_path_factory.mktemp("policy")) as graph:
        graph.start("guard", f"robot:={robot_file}")
        scene = Scene(
            graph=graph,
            robot=FakeRobot(graph, cameras=True),
            watch=GuardWatch(graph),
            reports=graph.hear(DiagnosticArray, "/diagnostics", qos.DIAGNOSTICS),
            bundle=bundle,
            robot_file=robot_file,
        )
        scene.start_policy(TASK)
        yield scene


@pytest.fixture
def running(scene: Scene) -> Scene:
    second = scene.graph.processes.pop("second", None)
    if second is not None:  # of a test that failed
        second.leave()
        scene.start_policy(TASK)
    if scene.graph.processes["policy"].popen.poll() is not None:  # a test that failed left it dead
        scene.start_policy(TASK)
    scene.graph.processes["policy"].popen.send_signal(signal.SIGCONT)
    scene.graph.until(lambda: scene.policy()["message"] == "planning", "the policy plans")
    scene.watch.run()
    return scene


def test_the_loop_is_closed_and_the_policy_tells_how_it_goes(running: Scene) -> None:
    graph, watch = running.graph, running.watch
    chunks = graph.hear(JointTrajectory, "policy/chunk", qos.CHUNK)
    begun = time.monotonic()
    graph.until(lambda: len(chunks) >= 20, "the policy plans twenty chunks")
    received = [trajectory_chunk(message) for _, message in chunks.items]
    # 10 Hz by the observations' own times. A loaded machine misses ticks; it never plans more often than that
    periods = np.diff([chunk.stamp for chunk in received])
    assert np.median(periods) > 0.08
    assert periods.min() < 0.15
    assert all(np.isfinite(np.array(chunk.positions)).all() for chunk in received)
    order = [(chunk.epoch, chunk.sequence) for chunk in received]
    assert order == sorted(set(order))  # a policy that was not run for a second begins a new epoch
    graph.until(lambda: "latency_p99_ms" in running.policy(), "the policy reports its latency")
    graph.until(lambda: int(running.policy()["inferred"]) >= 20, "it reports what it inferred")
    report = running.policy()
    for name in ("tick_jitter", "image_age", "latency"):
        assert 0 <= float(report[f"{name}_p50_ms"]) <= float(report[f"{name}_max_ms"]) < np.inf, name
    oldest_ms = 1e3 * load_robot(running.robot_file).safety.image_age_s
    assert float(report["image_age_max_ms"]) <= oldest_ms + 0.01
    assert report["task"] == "reach the red cube"
    graph.until(lambda: int(watch.values["epoch"]) >= received[-1].epoch, "the guard plays this policy")
    assert float(watch.values["latency_s"]) > 0
    watch.check_limits(begun)


def test_the_process_needs_no_torch(running: Scene) -> None:
    maps = running.graph.processes["policy"].mapped_files()
    assert "onnxruntime" in maps
    assert "/torch/" not in maps
    assert "/mujoco/" not in maps


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda robot: robot.camera_on.update(front=False), "observation.images.front stale"),
        (lambda robot: robot.frozen_stamp.update(wrist=time.time()), "observation.images.wrist stale"),
        (lambda robot: robot.frozen_pixels.update(front=True), "observation.images.front frozen"),
        (lambda robot: robot.camera_delay.update(front=0.3), "observation.images.front stale"),
        (lambda robot: robot.camera_delay.update(front=-0.2), "observation.images.front clock"),
        (lambda robot: robot.frozen_stamp.update(front=0.0), "observation.images.front stale"),
    ],
    ids=["one camera stops", "one stamp for ever", "one picture for ever", "300 ms late", "clock leads", "no stamps"],
)
def test_a_bad_camera_is_a_hold_that_ends_with_it(
    running: Scene, fault: Callable[[FakeRobot], None], kind: str
) -> None:
    robot, watch, graph = running.robot, running.watch, running.graph
    spoilt, before = time.monotonic(), int(running.policy().get(f"refused {kind}", 0))
    fault(robot)
    try:
        if "frozen" in kind:
            robot.offset[0] = 0.3  # behind a picture that stays the same the arm is seen to move
        watch.until("HOLD", reason="no chunk")
        watch.rest()
        watch.check_limits(spoilt)

        def counted() -> bool:
            report = running.policy()
            return int(report.get(f"refused {kind}", 0)) > before and "no observation" in report["message"]

        graph.until(counted, f"the policy says that it sees nothing and counts the ticks refused for '{kind}'")
        assert watch.values["state"] == "HOLD"
    finally:
        robot.camera_on, robot.frozen_pixels = (
            dict.fromkeys(robot.camera_on, True),
            dict.fromkeys(robot.camera_on, False),
        )
        robot.frozen_stamp, robot.camera_delay = dict.fromkeys(robot.camera_on), dict.fromkeys(robot.camera_on, 0.0)
        robot.offset[:] = 0
    watch.until("RUN_POLICY")  # nothing was latched


def test_a_killed_policy_is_a_hold_and_its_successor_waits_for_an_engage(running: Scene) -> None:
    killed = running.graph.processes["policy"].kill()
    running.watch.until("HOLD", reason="no chunk", since=killed)
    seconds, allowance = running.watch.reaction(killed, "HOLD", reason="no chunk")
    assert seconds <= POLICY_LOST_S + allowance
    running.start_policy(TASK)
    running.watch.until("HOLD", reason="engage again")
    faults = running.watch.count("faults")
    running.watch.run()
    assert running.watch.count("faults") == faults  # nothing was latched: no reset was needed


def test_a_hung_policy_is_a_hold(running: Scene) -> None:
    stopped = running.graph.processes["policy"].send(signal.SIGSTOP)
    running.watch.until("HOLD", reason="no chunk", since=stopped)
    seconds, allowance = running.watch.reaction(stopped, "HOLD", reason="no chunk")
    assert seconds <= POLICY_LOST_S + allowance
    running.graph.processes["policy"].send(signal.SIGCONT)
    running.watch.until("RUN_POLICY")


def test_a_reset_begins_a_new_epoch(running: Scene) -> None:
    epoch = int(running.watch.values["epoch"])
    assert running.graph.call("policy/reset").success
    running.graph.until(lambda: int(running.watch.values["epoch"]) > epoch, "the guard plays the new epoch")
    running.watch.until("RUN_POLICY")


def test_one_stray_chunk_of_a_later_policy_ends_nothing(running: Scene) -> None:
    graph = running.graph
    chunks = graph.hear(JointTrajectory, "policy/chunk", qos.CHUNK)
    graph.until(lambda: len(chunks) > 0, "the policy plans")
    own, _, _ = parse_chunk_frame_id(chunks.last.header.frame_id)
    stray = JointTrajectory(joint_names=chunks.last.joint_names, points=chunks.last.points)
    stray.header.stamp = chunks.last.header.stamp
    stray.header.frame_id = chunk_frame_id(own + 10**6, own + 10**6, 0)
    publisher = graph.node.create_publisher(JointTrajectory, "policy/chunk", qos.CHUNK)
    try:
        graph.until(lambda: publisher.get_subscription_count() >= 3, "policy, guard and this process would hear it")
        refused = running.watch.count("chunks_refused")
        publisher.publish(stray)
        graph.until(lambda: running.watch.count("chunks_refused") > refused, "the guard refuses it")
        heard = len(chunks)
        graph.until(lambda: len(chunks) > heard + 20, "the policy plans on")
        assert parse_chunk_frame_id(chunks.last.header.frame_id)[0] == own
        # A busy machine may have kept the pictures from it a moment ago
        graph.until(lambda: running.policy()["message"] == "planning", "it says so")
    finally:
        graph.node.destroy_publisher(publisher)  # other tests count who publishes chunks


def test_a_second_policy_refuses_to_plan(running: Scene) -> None:
    graph = running.graph
    graph.until(lambda: int(running.watch.values["epoch"]) > 0, "the guard plays the first one")
    # For twenty seconds the middleware lists a policy that a test killed, and is slow to bring new ones together
    graph.until(lambda: graph.node.count_publishers("policy/chunk") == 1, "dead policies are forgotten")
    epoch, begun_ms = int(running.watch.values["epoch"]), time.time_ns() // 1_000_000
    arguments = ["-m", "ros_nodes.policy_node", "--ros-args", "-r", "__node:=second", "-p", TASK]
    arguments += ["-p", f"bundle:={running.bundle}", "-p", f"robot:={running.robot_file}"]
    second = graph.run("second", arguments)
    graph.until(
        lambda: "cannot activate: another policy" in policy_report(running.reports, "second")["message"], "it refuses"
    )
    assert "Stop one of them" in second.output()
    # A loaded machine may have held for a moment while the second one started
    graph.until(lambda: int(running.watch.values["epoch"]) > 0, "the guard plays a policy")
    # The first one counts its epochs up from when it began, and one more after each hold; the second began later
    assert epoch <= int(running.watch.values["epoch"]) < begun_ms
    graph.processes.pop("second").leave()


def test_without_an_instruction_nothing_is_planned(running: Scene) -> None:
    running.start_policy()
    graph = running.graph
    graph.until(lambda: "no instruction on policy/task" in running.policy()["message"], "it asks for an instruction")
    assert running.watch.values["state"] == "HOLD"
    graph.insist("guard/reset")
    graph.until(
        lambda: "the policy 'policy' says: no observation: no instruction" in graph.call("guard/engage").message,
        "engage gives the policy's own reason",
    )
    tasks = graph.node.create_publisher(String, "policy/task", qos.LATCHED)
    tasks.publish(String(data="reach the blue cube"))
    running.watch.run()
    graph.until(lambda: running.policy().get("task") == "reach the blue cube", "it has heard the instruction")


def test_a_lifecycle_by_hand(running: Scene) -> None:
    graph = running.graph
    running.start_policy(TASK, "autostart:=false")
    states, changes = (
        graph.node.create_client(kind, f"policy/{name}")
        for kind, name in ((GetState, "get_state"), (ChangeState, "change_state"))
    )

    def ask(client: object, request: object) -> object:
        graph.until(client.service_is_ready, "the lifecycle service is there")
        future = client.call_async(request)
        graph.until(future.done, "the lifecycle service answers")
        return future.result()

    def change(label: str) -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return ask(changes, request).success

    def state() -> str:
        return ask(states, GetState.Request()).current_state.label

    graph.until(lambda: running.policy()["message"] == "not configured", "the policy waits")
    assert state() == "unconfigured"
    assert change("configure")
    assert state() == "inactive"
    assert change("activate")
    running.watch.run()  # who activates a policy has to engage the guard for it
    assert change("deactivate")
    running.watch.until("HOLD", reason="no chunk")
    assert change("cleanup")
    assert change("configure")
    assert change("activate")
    running.watch.until("HOLD", reason="engage again")
    running.watch.run()


def refused_start(scene: Scene, robot_file: Path, bundle: Path) -> str:
    """Starts a policy that cannot configure; returns what it says."""
    scene.start_any(bundle, robot_file, TASK)
    scene.graph.until(lambda: "cannot configure" in scene.policy()["message"], "the policy refuses")
    report = scene.policy()
    assert report["level"] == str(ERROR)
    assert "Traceback" not in scene.graph.processes["policy"].output()
    scene.graph.until(lambda: scene.watch.values["state"] == "HOLD", "the guard holds")
    return report["message"]


def changed_robot(path: Path, folder: Path, **changes: object) -> Path:
    data = yaml.safe_load(path.read_text())
    copy = folder / "sim6.yaml"
    copy.write_text(yaml.safe_dump({**data, **changes}))
    return copy


@pytest.mark.usefixtures("running")
def test_a_bundle_of_another_robot_is_one_clear_error(scene: Scene, tmp_path: Path) -> None:
    other = changed_robot(scene.robot_file, tmp_path, control_rate_hz=20.0)
    message = refused_start(scene, other, scene.bundle)
    assert "control_rate_hz" in message


def test_a_missing_camera_is_one_clear_error(scene: Scene, tmp_path: Path) -> None:
    cameras = yaml.safe_load(scene.robot_file.read_text())["cameras"]
    one_eyed = changed_robot(scene.robot_file, tmp_path, cameras=cameras[:1])
    message = refused_start(scene, one_eyed, scene.bundle)
    assert "differ in cameras" in message


def test_a_missing_bundle_is_one_clear_error(scene: Scene, tmp_path: Path) -> None:
    assert str(tmp_path / "nothing") in refused_start(scene, scene.robot_file, tmp_path / "nothing")


def test_what_the_policy_expects_to_see_is_published(scene: Scene, tmp_path: Path) -> None:
    # A picture may take as long as the guard waits for a chunk: a busy machine needs one that waits long
    robot_file = patient_robot(tmp_path / "robots", chunk_age_s=60.0)
    bundle = untrained_bundle(tmp_path, load_robot(robot_file))
    begun = time.time()
    pictures = scene.graph.hear(CompressedImage, "policy/imagined/compressed", qos.SENSOR)
    chunks = scene.graph.hear(JointTrajectory, "policy/chunk", qos.CHUNK)
    scene.start_any(bundle, robot_file, TASK, "publish_imagined:=true", "imagined_rate_hz:=5.0")
    scene.graph.until(lambda: len(pictures) >= 3, "three pictures of the future", patience=300)  # loads torch first
    size = scene_image_size(bundle)
    rgb = cv2.imdecode(np.frombuffer(bytes(pictures.last.data), dtype=np.uint8), cv2.IMREAD_COLOR)
    assert pictures.last.format == "jpeg"
    assert rgb.shape == (2 * size[0], 2 * size[1], 3)  # two cameras, now above and later below
    stamps = [stamp_seconds(message.header.stamp) for _, message in pictures.items]
    assert begun < stamps[0] < stamps[1] < stamps[2] < time.time()
    heard = len(chunks)
    scene.graph.until(lambda: len(chunks) > heard + 5, "chunks go on meanwhile")
    scene.graph.until(lambda: scene.policy().get("chunks"), "the policy reports")
    for problem in ("switched off", "no imagined picture", "inference failed"):
        assert problem not in scene.policy()["message"]


def scene_image_size(bundle: Path) -> tuple[int, int]:
    from wam.manifest import read_manifest

    return read_manifest(bundle).model.image_size_px


@pytest.mark.parametrize(
    ("parameter", "message"), [("rate_hz:=5", "must be in [7, 100] Hz"), ("mode:=frozen", "unknown parameter 'mode'")]
)
def test_parameters_out_of_range_are_one_clear_error(tmp_path: Path, parameter: str, message: str) -> None:
    with Graph(tmp_path) as graph:
        process = graph.start("policy", "bundle:=x", "robot:=sim6", parameter)
        assert process.popen.wait(timeout=PATIENCE) == 2
        assert message in process.output()
        assert "Traceback" not in process.output()
