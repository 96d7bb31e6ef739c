"""What every test can rely on: no network, one thread per library, hypothesis profiles, skips with a reason."""

import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Before any numerical library is imported: workers share the cores, and one thread each is faster than two that fight.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
# Libraries must not look anything up: a test that needs the network fails here rather than on a robot.
for _variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[_variable] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"  # off by default since Jazzy; messages check types and ranges with it

# A shell that starts the suite in the background ignores Ctrl-C for it, and nohup ignores SIGHUP; children of tests
# would inherit that, and never hear a signal that a test sends them.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

REPOSITORY = Path(__file__).resolve().parent.parent

# Deadlines measure the machine, not the code. Continuous integration repeats itself; a developer's run explores.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of this repository."""
    return REPOSITORY


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """Refuses connections that leave this machine; local sockets (process pools, ROS) stay open."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address):
        if self.family in {socket.AF_INET, socket.AF_INET6} and not _is_local(address[0]):
            raise RuntimeError(f"a test tried to connect to {address}: tests run without the network.")
        return connect(self, address)

    socket.socket.connect = guarded
    yield
    socket.socket.connect = connect


def pytest_collection_modifyitems(items):
    """Skips what this machine cannot run, and says so."""
    reasons = {"gpu": _gpu_missing, "ros": _ros_missing}
    for marker, missing in reasons.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = missing() if marked else ""
        for item in marked if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason))


def _is_local(host: str) -> bool:
    return host in {"localhost", "::1", "0.0.0.0", ""} or host.startswith("127.")


def _gpu_missing() -> str:
    import torch  # only when a test is marked gpu

    return "" if torch.cuda.is_available() else "needs a CUDA device"


def _ros_missing() -> str:
    return "" if importlib.util.find_spec("rclpy") else "needs rclpy: the extra 'ros', or a sourced ROS 2 installation"


@pytest.fixture(scope="session")
def ros_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of ROS processes on a domain that only this test process uses."""
    from tests.ros_graph import private_domain, ros_environment

    with private_domain() as domain:
        yield ros_environment(domain, tmp_path_factory.mktemp("ros_log"))


@pytest.fixture(scope="session")
def micro_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of robot sim6 with random weights of the smallest model; read only."""
    from wam.export import export_bundle
    from wam.robot import load_robot
    from wam.untrained import save_untrained_checkpoint

    folder = tmp_path_factory.mktemp("micro_bundle")
    checkpoint = save_untrained_checkpoint(folder / "run", load_robot("sim6"), preset_name="micro")
    export_bundle(checkpoint, folder / "bundle")
    return folder / "bundle"


@pytest.fixture(scope="session")
def built_bundle(micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle with engines of the fake TensorRT; read only, and of use where the fake GPU is (``engines``)."""
    from tests.fake_tensorrt import with_engines

    return with_engines(micro_bundle, tmp_path_factory.mktemp("engines") / "bundle")


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """A simulated GPU and TensorRT in place of the machine's own: (CUDA, TensorRT)."""
    from tests.fake_tensorrt import install

    return install(monkeypatch)


@pytest.fixture
def engines(fake_gpu: tuple[Any, Any], built_bundle: Path) -> Path:
    """A bundle with engines, on a machine with the fake GPU; read only."""
    return built_bundle


@pytest.fixture(scope="session")
def reach_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real LeRobot dataset of six reach episodes, recorded by `wam collect`; read only."""
    from sim.collect_config import CollectConfig
    from sim.collection import collect

    out = tmp_path_factory.mktemp("datasets") / "reach"
    collect(CollectConfig(task="reach", episodes=6, out=out, workers=1), _Quiet())
    return out


class _Quiet:
    """A progress display that shows nothing."""

    def recorded(self, success: bool) -> None:
        """Takes no notice."""

    def written(self) -> None:
        """Takes no notice."""
