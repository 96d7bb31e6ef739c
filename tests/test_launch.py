"""Launch files, parameter files and package.xml agree with the nodes: nothing misspelt, nothing undescribed."""

import ast
import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml
from catkin_pkg.package import parse_package

from ros_nodes.launch_plan import declared_arguments, plan
from ros_nodes.launch_reader import Element, read_launch_file
from tests.test_package import setup_arguments

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = "world_action_model"
LAUNCH_FILES = sorted((REPOSITORY / "launch").glob("*.launch.xml"))
USES = [path for path in LAUNCH_FILES if path.name != "shared_memory.launch.xml"]  # that one is only included
# Arguments that have no default, so that a plan can be made.
GIVEN = {"robot": "so101"}
# What every ROS node understands without declaring it.
OF_ROS = {"use_sim_time"}
# Imports of ros_nodes -> dependency in package.xml, where the names differ.
ROSDEP_NAMES = {"cv2": "python3-opencv", "numpy": "python3-numpy", "yaml": "python3-yaml", "psutil": "python3-psutil"}
# Imported by one backend or tool when it is used, and not in ROS's package index: docs/install.md says how to get them.
FROM_PIP = {"mcap", "mujoco", "lerobot", "rich", "tyro", "matplotlib", "scservo_sdk", "pynput"}


def elements(path: Path, tag: str) -> list[Element]:
    def walk(element: Element) -> list[Element]:
        return [found for child in element.children for found in ([child] if child.tag == tag else []) + walk(child)]

    return walk(read_launch_file(path))


def nodes() -> list[Element]:
    return [node for path in LAUNCH_FILES for node in elements(path, "node")]


def executables() -> dict[str, str]:
    """Console script -> module."""
    scripts = setup_arguments()["entry_points"]["console_scripts"]
    return {name.strip(): target.strip().split(":")[0] for name, target in (s.split("=") for s in scripts)}


def test_there_is_one_launch_file_per_use() -> None:
    assert {path.name.removesuffix(".launch.xml") for path in USES} >= {"bringup", "sim", "teleop_record"}


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_every_executable_is_installed(path: Path) -> None:
    for node in elements(path, "node"):
        assert node.attributes["pkg"] == PACKAGE
        module = executables().get(node.attributes["exec"])
        assert module, f"{node.file}:{node.line}: setup.py installs no '{node.attributes['exec']}'"
        # In a checkout ros_nodes.up starts the module of that name.
        assert module == f"ros_nodes.{node.attributes['exec']}_node"
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_described_with_its_choices(path: Path) -> None:
    for argument in elements(path, "arg"):
        if "value" in argument.attributes:
            continue  # passed on by an include
        assert len(argument.attributes.get("description", "")) >= 10, f"{path.name}:{argument.line}"
        if argument.attributes.get("default") in {"true", "false"}:
            choices = {choice.attributes["value"] for choice in argument.named("choice")}
            assert choices == {"true", "false"}, f"{path.name}:{argument.line}"


@pytest.mark.parametrize("path", USES, ids=lambda path: path.name)
@pytest.mark.parametrize("extra", [{}, {"namespace": "/left", "sim": "true", "clock": "true", "record": "true"}])
def test_every_file_makes_a_plan(path: Path, extra: dict[str, str]) -> None:
    names = {argument.name: argument for argument in declared_arguments(path, {})}
    given = {name: value for name, value in (GIVEN | extra).items() if name in names}
    processes = plan(path, given, {"ROS_DISTRO": "jazzy"})
    assert processes
    for process in processes:
        profile = Path(process.environment["FASTRTPS_DEFAULT_PROFILES_FILE"])
        assert profile == REPOSITORY / "config/fastdds_jazzy.xml"


@pytest.mark.parametrize(
    ("distribution", "variable", "profile"),
    [
        ("jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE", "fastdds_jazzy.xml"),
        ("kilted", "FASTDDS_DEFAULT_PROFILES_FILE", "fastdds_kilted.xml"),
        ("of_the_future", "FASTDDS_DEFAULT_PROFILES_FILE", "fastdds_kilted.xml"),
    ],
)
def test_each_distribution_gets_its_profile(distribution: str, variable: str, profile: str) -> None:
    path = REPOSITORY / "launch/sim.launch.xml"
    environment = plan(path, {"policy": "false"}, {"ROS_DISTRO": distribution})[0].environment
    assert environment[variable] == str(REPOSITORY / "config" / profile)
    assert [name for name in environment if name.endswith("_DEFAULT_PROFILES_FILE")] == [variable]
    own = plan(path, {"policy": "false"}, {"ROS_DISTRO": distribution, variable: "own.xml"})[0].environment
    assert own[variable] == "own.xml"


def test_a_real_arm_gets_its_cameras_and_a_simulated_one_none() -> None:
    def labels(**given: str) -> list[str]:
        processes = plan(REPOSITORY / "launch/bringup.launch.xml", {"robot": "so101", **given}, {})
        return [process.label.rsplit("-", 1)[0] for process in processes]

    assert labels() == ["arm", "camera", "camera", "guard", "policy"]
    assert labels(camera_2="none", policy="false") == ["arm", "camera", "guard"]
    assert labels(sim="true", record="true", teleop="joy") == ["recorder", "arm", "guard", "teleop", "policy"]
    assert labels(cameras="false") == ["arm", "guard", "policy"]


@pytest.mark.parametrize(
    ("given", "publishes", "follows"),
    [
        ({}, "false", "false"),
        ({"sim": "true"}, "false", "false"),
        ({"sim": "true", "clock": "true", "speed": "0.5"}, "true", "false"),
        ({"arm": "external", "clock": "true", "speed": "0.5"}, "false", "true"),
    ],
)
def test_only_the_arm_node_that_simulates_is_the_clock(given: dict[str, str], publishes: str, follows: str) -> None:
    processes = plan(REPOSITORY / "launch/bringup.launch.xml", {"robot": "so101", "teleop": "joy", **given}, {})
    words = {p.label: " ".join(str(getattr(word, "text", word)) for word in p.arguments) for p in processes}
    arm = words.pop("arm-1")
    assert f"publish_clock: {publishes}\n" in arm
    assert f"use_sim_time: {follows}\n" in arm
    assert f"speed: {given.get('speed', '1.0') if 'sim' in given else '1.0'}\n" in arm
    others = [label for label, text in words.items() if f"use_sim_time: {given.get('clock', 'false')}\n" not in text]
    assert not others, "they live on another time"


def test_the_guard_and_the_arm_are_required_and_the_policy_comes_back() -> None:
    processes = plan(REPOSITORY / "launch/bringup.launch.xml", {"robot": "so101", "record": "true"}, {})
    by_name = {process.label.rsplit("-", 1)[0]: process for process in processes}
    assert {name for name, process in by_name.items() if process.required} == {"arm", "guard"}
    assert {name for name, process in by_name.items() if process.respawn} == {"camera", "policy"}
    # Stopped from the last to the first: the guard brakes while the arm still listens, and the recorder sees it.
    order = list(by_name)
    assert order.index("recorder") < order.index("arm") < order.index("guard") < order.index("policy")


@pytest.mark.ros
@pytest.mark.parametrize("path", USES, ids=lambda path: path.name)
def test_nodes_end_with_their_launcher_and_get_the_time_for_it(path: Path) -> None:
    from ros_nodes.spinning import LAUNCHED_VARIABLE, STOP_SECONDS

    names = {argument.name for argument in declared_arguments(path, {})}
    for process in plan(path, {name: value for name, value in GIVEN.items() if name in names}, {}):
        assert process.environment[LAUNCHED_VARIABLE]
        if process.required:  # the guard, which brakes, and the arm, which waits for it
            assert process.sigterm_timeout_s >= STOP_SECONDS + 2.0


@pytest.mark.parametrize("path", [*USES], ids=lambda path: path.name)
def test_python_launch_files_only_include_the_xml(path: Path) -> None:
    thin = path.with_suffix(".py")
    tree = ast.parse(thin.read_text())
    imports = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports == {"pathlib", "launch", "launch.launch_description_sources"}
    assert 'with_suffix(".xml")' in thin.read_text()
    assert len(thin.read_text().splitlines()) < 20


def imports_of_ros_nodes() -> dict[str, str]:
    """Third-party module -> a file of ros_nodes that imports it, at any depth."""
    found = {}
    for path in sorted((REPOSITORY / "ros_nodes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0]: path.name for name in names}
    roots = {"wam", "policy", "sim", "calibration", "ros_nodes"}
    return {name: file for name, file in found.items() if name and name not in roots | sys.stdlib_module_names}


def test_the_manifest_covers_what_the_nodes_import() -> None:
    depends = {depend.name for depend in parse_package(REPOSITORY / "package.xml").exec_depends}
    missing = {
        name: file
        for name, file in imports_of_ros_nodes().items()
        if ROSDEP_NAMES.get(name, name) not in depends and name not in FROM_PIP
    }
    assert not missing


def test_the_manifest_holds_what_only_launch_files_need() -> None:
    depends = {depend.name for depend in parse_package(REPOSITORY / "package.xml").exec_depends}
    assert {"launch_xml", "launch_ros", "ros2launch"} <= depends


# ------------------------------------------------------------------------------------------ parameters of nodes


def parameter_files() -> list[Path]:
    return sorted((REPOSITORY / "config").glob("*.yaml"))


@pytest.mark.ros
def test_parameter_files_are_what_the_nodes_declare(tmp_path: Path) -> None:
    from ros_nodes.parameter_files import NODES, main

    assert main([str(tmp_path)]) == 0
    assert {path.stem for path in parameter_files()} == set(NODES)
    for path in parameter_files():
        assert path.read_text() == (tmp_path / path.name).read_text(), "run `python -m ros_nodes.parameter_files`"


@pytest.mark.ros
@pytest.mark.parametrize("path", parameter_files(), ids=lambda path: path.name)
def test_every_key_of_a_parameter_file_is_declared(path: Path) -> None:
    from ros_nodes.parameter_files import parameters_of

    declared = {info.name: info for info in parameters_of(path.stem)}
    content = yaml.safe_load(path.read_text())
    assert list(content) == ["/**"], "a key by node name would not match in a namespace"
    for name, value in content["/**"]["ros__parameters"].items():
        assert name in declared, f"{path.name}: {name}"
        assert isinstance(value, list if declared[name].array else declared[name].kind), f"{path.name}: {name}"


@pytest.mark.ros
def test_every_parameter_that_a_launch_file_gives_is_declared() -> None:
    from ros_nodes.parameter_files import parameters_of

    for node in nodes():
        declared = {info.name: info for info in parameters_of(node.attributes["exec"])}
        for parameter in node.named("param"):
            name = parameter.attributes.get("name")
            if name is None:
                assert re.fullmatch(r"\$\(var config\)/(\w+)\.yaml", parameter.attributes["from"])
                assert parameter.attributes["from"].endswith(f"/{node.attributes['exec']}.yaml")
            elif name not in OF_ROS:
                assert name in declared, f"{node.file.name}:{parameter.line}: {name}"
                kind = parameter.attributes.get("type")
                assert kind == declared[name].kind.__name__, f"{node.file.name}:{parameter.line}: {name} needs a type"


@pytest.mark.ros
def test_choices_of_launch_arguments_are_choices_of_the_node() -> None:
    from ros_nodes.parameter_files import parameters_of

    path = REPOSITORY / "launch/bringup.launch.xml"
    arguments = {argument.name: argument for argument in declared_arguments(path, {})}
    for node in elements(path, "node"):
        declared = {info.name: info for info in parameters_of(node.attributes["exec"])}
        for parameter in node.named("param"):
            variable = re.fullmatch(r"\$\(var (\w+)\)", parameter.attributes.get("value", ""))
            info = declared.get(parameter.attributes.get("name", ""))
            if variable and info and info.choices and variable[1] in arguments:
                choices = set(arguments[variable[1]].choices) - {"none"}
                assert choices, f"launch argument {variable[1]} lists no choices"
                assert choices <= set(info.choices), f"{variable[1]}: {choices - set(info.choices)}"
