"""The package as others see it: metadata that agrees, declared libraries, a complete wheel and colcon build."""

import ast
import contextlib
import io
import itertools
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import pytest
from catkin_pkg.package import parse_package

import wam
from wam.cli import OPTIONAL_LIBRARIES
from wam.doctor_probes import GL_PACKAGES

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "world_action_model"
ROOTS = ("wam", "policy", "sim", "calibration", "ros_nodes")

# Name on the package index -> importable name, where they differ.
IMPORT_NAMES = {
    "feetech-servo-sdk": "scservo_sdk",
    "mcap-ros2-support": "mcap_ros2",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
# Declared although no module of ours names them in an import statement.
USED_INDIRECTLY = {
    "tensorboard": "torch.utils.tensorboard needs it",
}


def setup_arguments() -> dict:
    """What setup.py hands to setuptools."""
    with contextlib.chdir(REPOSITORY), mock.patch("setuptools.setup") as setup:
        runpy.run_path("setup.py")
    return setup.call_args.kwargs


def distribution(requirement: str) -> str:
    """Name of the package in a requirement such as ``lerobot[dataset]==0.6.1``."""
    return re.match(r"[A-Za-z0-9._-]+", requirement).group().lower()


def import_name(requirement: str) -> str:
    name = distribution(requirement)
    return IMPORT_NAMES.get(name, name.removeprefix("ros-").replace("-", "_"))  # ROS's wheels: ros-sensor-msgs


def imported_libraries() -> dict[str, str]:
    """Third-party top-level names our packages import, with one file that does."""
    found = {}
    for root in ROOTS:
        for path in sorted((REPOSITORY / root).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found |= {name.split(".")[0]: str(path.relative_to(REPOSITORY)) for name in names}
                found |= {name: str(path.relative_to(REPOSITORY)) for name in _imported_by_text(node)}
    return {name: path for name, path in found.items() if name not in {*ROOTS, *sys.stdlib_module_names}}


def _imported_by_text(node: ast.AST) -> list[str]:
    """The name in ``importlib.import_module("name")``."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        return [arg.value.split(".")[0] for arg in node.args if isinstance(arg, ast.Constant)]
    return []


def test_packages_are_the_folders_with_an_init() -> None:
    skipped = {"build", "install", "log"}
    folders = {
        ".".join(path.parent.relative_to(REPOSITORY).parts)
        for path in REPOSITORY.glob("[!.]*/**/__init__.py")
        if path.relative_to(REPOSITORY).parts[0] not in skipped
    }
    assert set(setup_arguments()["packages"]) == folders


def test_version_is_one() -> None:
    manifest = parse_package(REPOSITORY / "package.xml")
    assert setup_arguments()["version"] == manifest.version == wam.__version__
    assert f"## {wam.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_manifest_is_valid() -> None:
    warnings: list[str] = []
    manifest = parse_package(REPOSITORY / "package.xml", warnings=warnings)
    manifest.validate(warnings=warnings)
    assert not warnings
    assert (manifest.package_format, manifest.name, manifest.licenses) == (3, PACKAGE, ["Apache-2.0"])
    assert manifest.get_build_type() == "ament_python"


def test_license_is_the_full_text() -> None:
    text = (REPOSITORY / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert setup_arguments()["license"] == "Apache-2.0"


def test_every_imported_library_is_declared() -> None:
    arguments = setup_arguments()
    declared = [*arguments["install_requires"], *itertools.chain(*arguments["extras_require"].values())]
    names = {import_name(requirement) for requirement in declared}
    # rclpy and TensorRT also come with ROS and with JetPack, under these names; PyOpenGL comes with mujoco; modelopt
    # has an environment of its own (requirements/quantise.sh).
    names |= {"rclpy", "tensorrt", "OpenGL", "modelopt"}
    undeclared = {name: path for name, path in imported_libraries().items() if name not in names}
    assert not undeclared


def test_every_declared_library_is_used() -> None:
    arguments = setup_arguments()
    extras = arguments["extras_require"]
    declared = arguments["install_requires"] + extras["sim"] + extras["train"] + extras["export"]
    used = set(imported_libraries())
    unused = {distribution(r) for r in declared if import_name(r) not in used} - set(USED_INDIRECTLY)
    assert not unused


def test_base_install_holds_no_training_library() -> None:
    names = {distribution(requirement) for requirement in setup_arguments()["install_requires"]}
    assert not names & {"torch", "lerobot", "mujoco", "onnx", "transformers"}


@pytest.mark.parametrize("extra", ["ros", "wan", "trt", "metaworld", "sim", "train", "export", "dev"])
def test_extra_exists(extra: str) -> None:
    assert setup_arguments()["extras_require"][extra]


def test_install_hints_name_the_extra_that_brings_the_library() -> None:
    extras = setup_arguments()["extras_require"]
    provided = {extra: {import_name(requirement) for requirement in extras[extra]} for extra in extras}
    provided["ros"].add("rclpy")
    wrong = [name for name, extra in OPTIONAL_LIBRARIES.items() if name not in provided[extra]]
    assert not wrong


def test_lock_pins_everything_that_is_declared_for_development() -> None:
    lock = (REPOSITORY / "requirements/lock.txt").read_text()
    pinned = set(re.findall(r"^([a-z0-9._-]+)==[\w.+]+", lock, flags=re.MULTILINE))
    arguments = setup_arguments()
    wanted = {
        distribution(r).replace("_", "-") for r in arguments["install_requires"] + arguments["extras_require"]["dev"]
    }
    assert not wanted - pinned, "run `make lock`"


def test_gl_packages_are_the_same_everywhere() -> None:
    assert f'PACKAGES="{GL_PACKAGES}"' in (REPOSITORY / "requirements/gl.sh").read_text()


@pytest.fixture(scope="module")
def source_copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git holds or would hold, in a folder of its own: builds leave files beside the sources."""
    folder = tmp_path_factory.mktemp("source") / PACKAGE
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in listing.splitlines():
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def modules_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for root in ROOTS for path in (folder / root).rglob("*.py")}


def run(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a tool of this environment; the repository itself must not be importable by accident."""
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "AMENT_PREFIX_PATH"}}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    result = subprocess.run(
        command, cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_wheel_holds_every_module_template_and_robot(source_copy: Path, tmp_path: Path) -> None:
    from setuptools import build_meta

    with contextlib.chdir(source_copy), contextlib.redirect_stdout(io.StringIO()):
        wheel = tmp_path / build_meta.build_wheel(str(tmp_path))
    names = set(zipfile.ZipFile(wheel).namelist())
    assert not modules_of(source_copy) - names
    assert not {str(path.relative_to(source_copy)) for path in (source_copy / "sim").rglob("*.j2")} - names
    assert not {str(path.relative_to(source_copy)) for path in (source_copy / "sim").rglob("*.xml")} - names
    data = f"{PACKAGE}-{wam.__version__}.data/data/share/{PACKAGE}"
    assert {f"{data}/config/robots/sim6.yaml", f"{data}/package.xml"} <= names
    assert not [name for name in names if name.startswith(("tests/", "launch/", "docs/"))]


def test_colcon_build_installs_a_ros_package(source_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    shutil.copytree(source_copy, tmp_path / "src" / PACKAGE)
    build = run(["colcon", "build"], tmp_path)
    # An invalid package.xml or a missing marker only warns, and silently drops the ament hook.
    assert f"Finished <<< {PACKAGE}" in build.stdout
    assert "package.xml" not in build.stderr
    assert "doesn't explicitly install" not in build.stderr
    share = tmp_path / "install" / PACKAGE / "share"
    hooks = {path.name for path in (share / PACKAGE / "hook").iterdir()}
    assert {"ament_prefix_path.sh", "ament_prefix_path.dsv"} <= hooks
    assert (share / "ament_index/resource_index/packages" / PACKAGE).is_file()
    assert (share / PACKAGE / "config/robots/sim6.yaml").is_file()
    assert (share / PACKAGE / "package.xml").is_file()
    for folder, suffixes in {"launch": {".xml", ".py"}, "config": {".xml", ".yaml"}}.items():
        sources = {path.name for path in (source_copy / folder).iterdir() if path.suffix in suffixes}
        assert {path.name for path in (share / PACKAGE / folder).iterdir() if path.is_file()} == sources
    scripts = {script.split(" = ")[0] for script in setup_arguments()["entry_points"]["console_scripts"]}
    lib = tmp_path / "install" / PACKAGE / "lib" / PACKAGE
    assert {path.name for path in lib.iterdir()} == scripts
    for script in scripts:
        assert os.access(lib / script, os.X_OK)
        # Libraries may stand in a virtual environment that colcon knows nothing of.
        assert (lib / script).read_text().startswith("#!/usr/bin/env python3\n")
    executable = lib / "wam"

    # From another folder, with only the workspace's own setup script sourced.
    check = "import wam, wam.robot; print(wam.__file__); print(wam.robot.load_robot('sim6').name)"
    script = f'. {tmp_path}/install/local_setup.sh && {executable} --version && python -c "{check}"'
    lines = run(["sh", "-c", script], tmp_path, COLCON_CURRENT_PREFIX=str(tmp_path / "install")).stdout.splitlines()
    assert lines[0] == f"wam {wam.__version__}"
    assert Path(lines[1]).is_relative_to(tmp_path / "install")
    assert lines[2] == "sim6"
    # Where there is an installed executable, that is what a launch file starts.
    up = f"python -m ros_nodes.up sim --print bundle:={tmp_path}"
    script = f". {tmp_path}/install/local_setup.sh && {up}"
    printed = run(["sh", "-c", script], tmp_path, COLCON_CURRENT_PREFIX=str(tmp_path / "install")).stdout
    assert f" {lib}/guard --ros-args -r __node:=guard" in printed
    assert f"{share}/{PACKAGE}/config/guard.yaml" in printed
