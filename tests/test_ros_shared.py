"""What all nodes share: parameters, messages, quality of service, diagnostics, leaving on a signal."""

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy")

from rclpy.lifecycle import LifecycleNode  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSCompatibility, qos_check_compatible  # noqa: E402

from policy import wire  # noqa: E402
from ros_nodes import messages, qos  # noqa: E402
from ros_nodes.diagnostics import Health, Window, status_message, values_of  # noqa: E402
from ros_nodes.errors import MessageError, ParameterError  # noqa: E402
from ros_nodes.parameters import declare, described, param  # noqa: E402
from tests.ros_graph import private_sockets  # noqa: E402
from wam.robot import load_robot  # noqa: E402
from wam.spec import ActionChunk  # noqa: E402

REPOSITORY = Path(__file__).resolve().parent.parent
ROBOT = load_robot("sim6")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of the node under test."""

    bundle: str = field(metadata=param("folder of the policy bundle"))
    mode: str = field(default="rtc", metadata=param("how chunks are joined", choices=("rtc", "hold")))
    rate_hz: float = field(default=10.0, metadata=param("ticks per second", unit="Hz", low=7, high=100))
    n_steps: int = field(default=4, metadata=param("denoising steps", low=1))
    autostart: bool = field(default=True, metadata=param("configure and activate by itself"))
    cameras: tuple[str, ...] = field(default=("front",), metadata=param("cameras to use"))


@pytest.fixture(scope="module")
def ros() -> Iterator["rclpy.Context"]:
    with private_sockets():
        context = rclpy.Context()
        context.init(args=[])
        yield context
        context.try_shutdown()


def declared(ros: "rclpy.Context", *arguments: str) -> Parameters:
    flags = [word for argument in arguments for word in ("-p", argument)]
    node = Node("tested", context=ros, cli_args=["--ros-args", *flags], use_global_arguments=False)
    try:
        values = declare(node, Parameters)
        for info in described(Parameters):
            own = getattr(values, info.name)
            assert node.get_parameter(info.name).value == (list(own) if info.array else own)
            assert info.description in node.describe_parameter(info.name).description
            answer = node.set_parameters([Parameter(info.name, value="other")])[0]
            assert not answer.successful
        return values
    finally:
        node.destroy_node()


def test_parameters_become_one_frozen_value(ros: "rclpy.Context") -> None:
    values = declared(ros, "bundle:=here", "rate_hz:=20", "cameras:=[front, wrist]", "use_sim_time:=true")
    assert values == Parameters(bundle="here", rate_hz=20.0, cameras=("front", "wrist"))
    assert isinstance(values.rate_hz, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        values.mode = "hold"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "parameter 'bundle' of node 'tested' is missing and has no default: folder of the policy bundle."),
        (["bundle:=x", "rate_hs:=9"], "unknown parameter of node 'tested' 'rate_hs' (did you mean 'rate_hz'?)"),
        (["bundle:=x", "rate_hz:=3.0"], "is 3.0 Hz but must be in [7, 100] Hz: ticks per second."),
        (["bundle:=x", "rate_hz:=.nan"], "is nan Hz but must be in [7, 100] Hz"),
        (["bundle:=x", "n_steps:=0"], "'n_steps' of node 'tested' is 0 but must be in [1, inf]"),
        (["bundle:=x", "n_steps:=2.5"], "is 2.5 but must be of type int"),
        (["bundle:=x", "rate_hz:=fast"], "is 'fast' but must be of type float"),
        (["bundle:=x", "mode:=rtx"], "'rtx' (did you mean 'rtc'?); valid names: hold, rtc."),
        (["bundle:=x", "autostart:=1"], "is 1 but must be of type bool"),
        (["bundle:=x", "cameras:=front"], "is 'front' but must be a list: cameras to use."),
    ],
)
def test_bad_parameters_are_one_clear_error(ros: "rclpy.Context", arguments: list[str], message: str) -> None:
    with pytest.raises(ParameterError) as caught:
        declared(ros, *arguments)
    assert message in str(caught.value)


def test_a_parameter_without_description_is_our_own_bug() -> None:
    @dataclass(frozen=True)
    class Undescribed:
        rate_hz: float = 1.0

    with pytest.raises(TypeError, match="rate_hz.*param"):
        described(Undescribed)


@given(seconds=st.floats(min_value=0, max_value=2e9))
def test_stamps_survive_the_message(seconds: float) -> None:
    assert wire.stamp_seconds(messages.to_time(seconds)) == pytest.approx(seconds, abs=3e-7)


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_images_survive_the_message(height: int, width: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    message = messages.rgb_image(rgb, messages.to_time(1.5), "lens")
    assert (message.header.frame_id, message.header.stamp.sec) == ("lens", 1)
    np.testing.assert_array_equal(wire.rgb_from_image(message), rgb)
    np.testing.assert_array_equal(
        wire.rgb_from_image(messages.rgb_image(rgb[:, ::-1], message.header.stamp, "")), rgb[:, ::-1]
    )


def test_chunks_survive_the_message() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (8, ROBOT.action_dim)).astype(np.float32)
    chunk = ActionChunk(actions=actions, stamp=1234.25, control_dt=0.1, anchor=actions[0])
    message = messages.chunk_trajectory(chunk, ROBOT.action_names, 1795240062, 7)
    read = messages.trajectory_chunk(message)
    assert (read.epoch, read.sequence, read.stamp) == (1795240062, 7, chunk.stamp)
    assert tuple(read.names) == ROBOT.action_names
    np.testing.assert_allclose(read.times_s, 0.1 * np.arange(8), atol=1e-9)
    np.testing.assert_array_equal(np.array(read.positions, dtype=np.float32), actions)


@pytest.mark.parametrize(
    "frame_id", ["", "wam", "wam/a", "wam/a/b", "base/a/1", "wam/a/1/2", "wam/1/2/3/4", "wam//1/2"]
)
def test_frames_that_are_no_chunk_are_refused(frame_id: str) -> None:
    with pytest.raises(MessageError, match="wam/<session>/<epoch>/<sequence>"):
        messages.parse_chunk_frame_id(frame_id)


@given(st.lists(st.floats(-1, 1), min_size=7, max_size=7), st.lists(st.floats(-3, 3), min_size=7, max_size=7))
def test_commands_of_both_interfaces_carry_names_and_a_place_to_rest(
    positions: list[float], velocities: list[float]
) -> None:
    target, speed = np.clip(positions, ROBOT.lower, ROBOT.upper), np.array(velocities)
    names = ROBOT.action_names
    forward = messages.forward_command(names, target)
    np.testing.assert_allclose(wire.command_by_name(forward, names[::-1]), target[::-1], atol=1e-6)
    assert wire.command_source(forward) == ""
    source = wire.new_source("guard")
    of_guard = messages.forward_command(names, target, source)
    assert wire.command_source(of_guard) == source
    np.testing.assert_allclose(wire.command_by_name(of_guard, names), target, atol=1e-6)
    trajectory = messages.trajectory_command(ROBOT, target, speed, 0.02, source)
    assert wire.command_source(trajectory) == source
    first, *rest = trajectory.points
    np.testing.assert_allclose(first.positions, target)
    assert len(rest) == (np.abs(speed) > 2e-5).any()
    for point in rest:
        seconds = (point.time_from_start.sec - first.time_from_start.sec) + 1e-9 * (
            point.time_from_start.nanosec - first.time_from_start.nanosec
        )
        assert not np.any(point.velocities)
        braking = np.array([axis.max_acceleration for axis in ROBOT.axes])
        assert (np.abs(speed) <= braking * seconds * (1 + 1e-6) + 1e-6).all()
        assert (np.array(point.positions) >= ROBOT.lower).all()
        assert (np.array(point.positions) <= ROBOT.upper).all()


@pytest.mark.parametrize(
    ("asked", "offered"),
    [
        (qos.SENSOR, qos.SENSOR),
        (qos.SENSOR_RECORDED, qos.SENSOR),
        (qos.STATE, qos.STATE_OFFERED),
        (qos.STATE, qos.SENSOR),
        (qos.CHUNK, qos.CHUNK),
        (qos.COMMAND, qos.COMMAND),
        (qos.LATCHED, qos.LATCHED),
        (qos.VOLATILE, qos.LATCHED),
        (qos.DIAGNOSTICS, qos.DIAGNOSTICS),
    ],
)
def test_what_is_asked_for_is_offered(asked: "rclpy.qos.QoSProfile", offered: "rclpy.qos.QoSProfile") -> None:
    assert qos_check_compatible(offered, asked)[0] == QoSCompatibility.OK


def test_windows_report_percentiles_of_the_last_samples() -> None:
    window = Window(size=100)
    assert window.summary("age") == {}
    for sample in range(1000):
        window.add(sample / 1000)
    assert window.count == 1000
    summary = {key: float(value) for key, value in window.summary("age").items()}
    assert summary == {
        "age_p50_ms": pytest.approx(949.5),
        "age_p95_ms": pytest.approx(994.05),
        "age_p99_ms": pytest.approx(998.01),
        "age_max_ms": pytest.approx(999.0),
    }


def test_health_survives_the_message() -> None:
    status = status_message("policy", Health(message="fine", values={"ticks": 3, "age_ms": 1.5}))
    assert values_of(status) == {"ticks": "3", "age_ms": "1.5"}
    assert (status.name, status.message) == ("policy", "fine")


def rclpy_attributes() -> set[str]:
    """Names that rclpy's nodes use, on the class or on ``self``."""
    names = set(dir(LifecycleNode))
    for kind in LifecycleNode.__mro__[:-1]:
        for node in ast.walk(ast.parse(inspect.getsource(sys.modules[kind.__module__]))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                names.add(node.attr)
    return names


ALLOWED = {"__init__", "destroy_node"} | {name for name in dir(LifecycleNode) if name.startswith("on_")}


def test_nodes_leave_rclpy_its_own_attributes() -> None:
    taken, wrong = rclpy_attributes() - ALLOWED, []
    assert {"publishers", "context", "_clock", "_guards"} <= taken
    for path in sorted((REPOSITORY / "ros_nodes").glob("*.py")):
        for kind in ast.walk(ast.parse(path.read_text())):
            if isinstance(kind, ast.ClassDef) and any("Node" in ast.unparse(base) for base in kind.bases):
                wrong += [f"{path.name}:{line} {name}" for name, line in _own_names(kind) if name in taken]
    assert not wrong, wrong


def _own_names(kind: ast.ClassDef) -> list[tuple[str, int]]:
    found = [(node.name, node.lineno) for node in kind.body if isinstance(node, ast.FunctionDef)]
    for node in ast.walk(kind):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "self":
                    found.append((part.attr, part.lineno))
    return found
