"""The ways to install: container, service and second ROS distribution pass their linters and name what exists."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ros_nodes.launch_plan import plan
from ros_nodes.up import parse_arguments
from tests.test_package import distribution, setup_arguments

REPOSITORY = Path(__file__).resolve().parent.parent
DOCKERFILE = REPOSITORY / "docker/Dockerfile"
SERVICE = REPOSITORY / "config/systemd/wam.service"


def tool(name: str) -> str:
    """Path of a program beside this Python or on the PATH; empty when there is none."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])) or ""


@pytest.mark.skipif(not tool("hadolint"), reason="needs hadolint (x86-64: in requirements/lock.txt)")
def test_dockerfile_passes_its_linter() -> None:
    result = subprocess.run([tool("hadolint"), str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_dockerfile_says_that_it_was_not_built_and_names_what_exists() -> None:
    text = DOCKERFILE.read_text()
    assert "NOT BUILT YET" in text
    extras = setup_arguments()["extras_require"]
    named = re.search(r"^ARG EXTRAS=(\S+)$", text, flags=re.MULTILINE)[1].split(",")
    named += re.search(r"--build-arg EXTRAS=(\S+)", text)[1].split(",")
    assert set(named) <= set(extras)
    for source in re.findall(r"^COPY (?:--\S+ )*(\S+) \S+$", text, flags=re.MULTILINE):
        assert (REPOSITORY / source).exists(), source
    assert os.access(REPOSITORY / "docker/entrypoint.sh", os.X_OK)
    # ROS's wheels must not come on top of ROS's own packages.
    assert "ros" not in named
    assert not [requirement for requirement in extras["nodes"] if distribution(requirement).startswith("ros-")]


@pytest.mark.skipif(not tool("systemd-analyze"), reason="needs systemd-analyze")
def test_service_passes_systemd(tmp_path: Path) -> None:
    unit = tmp_path / SERVICE.name
    shutil.copy2(SERVICE, unit)
    result = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_service_lets_every_process_stop_softly() -> None:
    text = SERVICE.read_text()
    assert "\nKillSignal=SIGINT\n" in text  # ros2 launch forgets its nodes on SIGTERM
    assert "\nKillMode=control-group\n" in text  # "mixed" kills the guard at once when the launch has died
    seconds = float(re.search(r"^TimeoutStopSec=(\d+)$", text, flags=re.MULTILINE)[1])
    for process in plan(REPOSITORY / "launch/bringup.launch.xml", {"robot": "so101"}, {}):
        assert seconds > process.sigterm_timeout_s + process.sigkill_timeout_s
    launch_file = re.search(r"ros2 launch --noninteractive world_action_model (\S+)", text)[1]
    assert (REPOSITORY / "launch" / launch_file).is_file()


def shell_lines() -> list[str]:
    """What the unit, and the line it offers for the wheels, make bash run."""
    found = re.findall(r"^#? *ExecStart=/bin/bash -c '(.*)'$", SERVICE.read_text(), flags=re.MULTILINE)
    assert len(found) == 2
    return found


def stand_in(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_service_activates_what_the_installation_made(tmp_path: Path) -> None:
    (wheels, colcon), workspace = shell_lines(), tmp_path / "workspace"
    program = '#!/bin/bash\necho "$WAM_SEEN ${0##*/} $*"\n'
    for name, path in (("jazzy", tmp_path / "jazzy/setup.bash"), ("local", workspace / "install/local_setup.bash")):
        stand_in(path, f'WAM_SEEN="$WAM_SEEN {name}"; export WAM_SEEN\n')
    stand_in(workspace / "python/bin/activate", f'WAM_SEEN="$WAM_SEEN python"; PATH="{workspace}/python/bin:$PATH"\n')
    stand_in(workspace / "python/bin/ros2", program)  # found because the environment is active
    stand_in(workspace / ".venv/bin/wam", program)
    for line, seen in ((colcon, ["jazzy", "python", "local", "ros2", "launch"]), (wheels, ["wam", "up", "bringup"])):
        command = line.replace("/opt/ros/jazzy", str(tmp_path / "jazzy"))
        result = subprocess.run(["bash", "-c", command], cwd=workspace, capture_output=True, text=True, check=True)
        words = result.stdout.split()
        assert words[: len(seen)] == seen
        arguments = parse_arguments([word for word in words if ":=" in word])
        assert plan(REPOSITORY / "launch/bringup.launch.xml", arguments, {})
    for gone in ("python/bin/activate", "install/local_setup.bash"):  # nothing is started half-way
        (workspace / gone).unlink()
        command = colcon.replace("/opt/ros/jazzy", str(tmp_path / "jazzy"))
        result = subprocess.run(["bash", "-c", command], cwd=workspace, capture_output=True, text=True, check=False)
        assert result.returncode != 0
        assert gone in result.stderr
        stand_in(workspace / gone, "true\n")


def test_kilted_installs_the_same_ros_packages_as_jazzy() -> None:
    lines = (REPOSITORY / "requirements/kilted.txt").read_text().splitlines()
    kilted = {line.split("==")[0] for line in lines if not line.startswith("#")}
    wheels = [requirement for requirement in setup_arguments()["extras_require"]["ros"] if requirement[:4] == "ros-"]
    assert kilted == {requirement.split("==")[0] for requirement in wheels}
    assert "ros-rclpy[fastrtps]==9.1.2" in lines


def test_kilted_needs_the_base_environment(tmp_path: Path) -> None:
    script = tmp_path / "requirements/kilted.sh"
    script.parent.mkdir()
    shutil.copy2(REPOSITORY / "requirements/kilted.sh", script)
    result = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "kilted: .venv is not there yet: run 'make environment' first." in result.stderr
