"""Guards that keep the house in order: who imports whom, what a robot needs, how large things get, what is committed.

Imports are read from the syntax tree, at any depth; "at import" means outside functions and TYPE_CHECKING blocks.
"""

import ast
import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from wam.cli import VERBS

REPOSITORY = Path(__file__).resolve().parent.parent
ROOTS = ("wam", "policy", "sim", "calibration", "ros_nodes")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 70

# What a robot imports. Everything else in wam may use torch.
TORCH_FREE = {
    "wam",
    "wam.calibration_spec",
    "wam.lens",
    *("wam.lens_checks", "wam.plain_data", "wam.strict_yaml"),
    "wam.limits",
    "wam.dataset_meta",
    *(f"wam.{name}" for name in ("cli", "config", "doctor", "doctor_probes", "doctor_ros", "errors", "manifest")),
    *(f"wam.{name}" for name in ("history", "model_config", "normalise", "picture_fit")),
    *(f"wam.{name}" for name in ("robot", "robot_identity", "sigmas", "spec", "strict_json", "text", "transforms")),
}
# The simulator itself; what these import inside sim/ belongs to it as well. The rest of sim/ composes.
SIMULATOR = ("gl", "layout", "scene", "arm_sim", "tasks", "kinematics", "experts", "envs", "errors")
# What may not even be looked for when a robot imports its part: each is brought by an extra, or chosen by a backend.
NOT_ON_A_ROBOT = ("torch", "lerobot", "mujoco", "gymnasium", "onnx", "scipy", "matplotlib", "jinja2", "av", "jaxtyping")
BACKEND_RUNTIMES = ("onnxruntime", "tensorrt", "tensorrt_rtx")
SERVO_BUS = "ros_nodes.so101_bus"  # the one node module that may use lerobot, inside functions
PICKLE_WRITER = "foreign_archives.py"  # makes what others publish, to test that it is read without unpickling
PICKLE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@dataclass(frozen=True, kw_only=True)
class Import:
    """One imported module."""

    name: str  # dotted name of the module
    line: int
    at_import: bool  # runs when the importing module is imported


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, for every module of the import roots."""
    found = {}
    for root in ROOTS:
        for path in sorted((REPOSITORY / root).rglob("*.py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports_of(module: str) -> tuple[Import, ...]:
    return tuple(_walk(ast.parse(modules()[module].read_text()), at_import=True))


def _walk(node: ast.AST, *, at_import: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        inside = inside and not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test))
        if isinstance(child, ast.Import):
            yield from (Import(name=alias.name, line=child.lineno, at_import=at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = child.module or ""
            names = [f"{base}.{alias.name}" for alias in child.names if f"{base}.{alias.name}" in modules()]
            yield from (Import(name=name, line=child.lineno, at_import=at_import) for name in names or [base])
        yield from _walk(child, at_import=inside)


def root_of(name: str) -> str:
    return name.split(".")[0]


def within(names: tuple[str, ...], root: str) -> set[str]:
    """The modules of one root that the named ones import, directly or not, themselves included."""
    todo, seen = [f"{root}.{name}" for name in names if f"{root}.{name}" in modules()], set()
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo += [
                found.name for found in imports_of(module) if found.name in modules() and root_of(found.name) == root
            ]
    return seen


def forbidden(module: str, found: Import, simulator: set[str]) -> str:
    """Why a module may not import what it imports; empty when it may."""
    root, target = root_of(module), root_of(found.name)
    allowed = {
        "wam": {"wam"},
        "policy": {"policy", "wam"},
        "calibration": {"calibration", "wam"},
        "sim": {"sim", "wam"} if module in simulator else {"sim", "wam", "policy", "calibration"},
        "ros_nodes": set(ROOTS),
    }[root]
    if target in ROOTS and target not in allowed:
        return f"'{root}' may import only {sorted(allowed)}"
    # policy may reach for torch inside functions: its torch backend runs the bundle's own weights.
    torch_free = root in {"calibration", "ros_nodes"} or module in simulator or (root == "policy" and found.at_import)
    if target == "wam" and root != "wam" and torch_free and found.name not in TORCH_FREE:
        return "only wam's torch-free part may be imported here"
    torch_free = torch_free or (module in TORCH_FREE and found.at_import)
    if module == SERVO_BUS and target == "lerobot" and not found.at_import:
        return ""
    if torch_free and target in {"torch", "lerobot"}:
        return "torch and lerobot may not be imported here"
    if module in TORCH_FREE and found.at_import and target == "wam" and found.name not in TORCH_FREE:
        return "wam's torch-free part may not import the rest of wam"
    if target == "mujoco" and module != "sim.gl" and root != "calibration":
        return "import mujoco from sim.gl, which chooses the renderer first"
    if target == "rclpy" and root != "ros_nodes":
        return "only ros_nodes knows ROS"
    return ""


def test_imports_point_down() -> None:
    simulator = within(SIMULATOR, "sim")
    wrong = [
        f"{modules()[module].relative_to(REPOSITORY)}:{found.line} imports {found.name}: {reason}"
        for module in modules()
        for found in imports_of(module)
        if (reason := forbidden(module, found, simulator))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "name", "at_import"),
    [
        ("wam.robot", "sim.tasks", False),
        ("wam.robot", "torch", True),
        ("wam.robot", "wam.model", True),
        ("policy.runner", "sim.tasks", False),
        ("policy.runner", "wam.model", True),
        ("policy.runner", "lerobot.datasets", True),
        ("sim.arm_sim", "policy.runner", False),
        ("sim.arm_sim", "calibration.boards", False),
        ("calibration.check_robot", "sim.arm_sim", False),
        ("sim.arm_sim", "wam.model", False),
        ("sim.tasks", "mujoco", True),
        ("calibration.hand_eye", "policy.runner", False),
        ("ros_nodes.policy", "wam.model", False),
        ("ros_nodes.so101_bus", "lerobot.motors", True),
        ("ros_nodes.teleop_node", "lerobot.motors", False),
        ("sim.evaluate", "ros_nodes.policy", False),
        ("policy.runner", "rclpy", False),
    ],
)
def test_the_guard_itself_refuses(module: str, name: str, at_import: bool) -> None:
    assert forbidden(module, Import(name=name, line=1, at_import=at_import), {"sim.arm_sim", "sim.tasks"})


BLOCKED_IMPORT = """
import importlib, importlib.abc, sys
blocked, names = set(sys.argv[1].split(",")), sys.argv[2].split(",")
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"blocked: {name}")
sys.meta_path.insert(0, Block())
for name in names:
    importlib.import_module(name)
"""


def import_blocked(names: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED_IMPORT, ",".join(blocked), ",".join(names)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def test_a_robot_imports_its_part_without_training_libraries() -> None:
    names = [
        name for name in modules() if root_of(name) in {"policy", "ros_nodes", "calibration"} or name in TORCH_FREE
    ]
    assert {"policy", "ros_nodes", "wam.robot", "wam.spec"} <= set(names)
    result = import_blocked(names, NOT_ON_A_ROBOT + BACKEND_RUNTIMES)
    assert result.returncode == 0, result.stderr


def test_the_blocker_blocks() -> None:
    result = import_blocked(["wam.model"], NOT_ON_A_ROBOT)
    assert result.returncode != 0
    assert "blocked: " in result.stderr


@pytest.mark.parametrize("root", ROOTS)
def test_import_roots_are_this_repository(root: str) -> None:
    spec = importlib.util.find_spec(root)
    assert spec is not None
    assert Path(spec.origin or "").resolve() == REPOSITORY / root / "__init__.py"


@pytest.mark.parametrize("root", ROOTS)
def test_package_init_holds_only_names(root: str) -> None:
    tree = ast.parse((REPOSITORY / root / "__init__.py").read_text())
    assert ast.get_docstring(tree), f"{root}/__init__.py needs a docstring"
    assert any("__all__" in ast.unparse(node) for node in tree.body), f"{root}/__init__.py needs an __all__"
    heavy = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not heavy, f"{root}/__init__.py imports {heavy}"


@pytest.mark.parametrize("folder", ["launch", "tests"])
def test_folder_is_not_a_package(folder: str) -> None:
    assert not list((REPOSITORY / folder).rglob("__init__.py"))


def tracked_files() -> list[Path]:
    """Everything git holds or would hold."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    files = [REPOSITORY / name for name in listing.splitlines()]
    return [path for path in files if path.is_file()]


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def test_no_test_imports_mujoco_before_the_renderer_is_chosen() -> None:
    skip = "importorskip(" + '"mujoco")'  # imports it as well, and cameras of the same process are not drawn any more
    assert not [path.name for path in (REPOSITORY / "tests").glob("*.py") if skip in path.read_text()]


def test_files_stay_small() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in python_files()}
    large = [
        f"{path.relative_to(REPOSITORY)}: {lines} lines" for path, lines in sizes.items() if lines > MAX_FILE_LINES
    ]
    assert not large, "\n".join(large)


def test_functions_stay_small() -> None:
    large = []
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    large.append(f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}: {lines} lines")
    assert not large, "\n".join(large)


def test_nothing_is_pickled() -> None:
    wrong = []
    for path in python_files():
        if path.name == PICKLE_WRITER:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if any(name.split(".")[0] in PICKLE_MODULES for name in _imported_names(node)) or _pickles(node):
                wrong.append(f"{path.relative_to(REPOSITORY)}:{node.lineno} {ast.unparse(node)[:80]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source", ["import pickle", "from joblib import dump", "torch.load('x')", "np.load('x', allow_pickle=True)"]
)
def test_the_pickle_guard_itself_refuses(source: str) -> None:
    nodes = list(ast.walk(ast.parse(source)))
    assert any(set(_imported_names(node)) & PICKLE_MODULES or _pickles(node) for node in nodes)


def _imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def _pickles(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    allows = any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords)
    return allows or ast.unparse(node.func) in {"torch.load", "torch.save"}


def test_no_machine_path_and_no_package_host_is_committed() -> None:
    # Put together here, so that this file does not contain what it looks for.
    folders = "|".join(("work", "root", "home", "Users"))
    hosts = "|".join(
        (
            "pypi" + r"\.org",
            "python" + "hosted",
            r"download\.py" + "torch",
            r"pypi\.nvi" + "dia",
            "conda" + r"\.anaconda",
        )
    )
    pattern = re.compile(rf"(?<![\w.$}}>~])/(?:{folders})/[\w.]|{hosts}|--(?:extra-)?index-" + "url")
    wrong = []
    for path in tracked_files():
        text = path.read_bytes().decode(errors="ignore")
        wrong += [f"{path.relative_to(REPOSITORY)}: {found.group()}" for found in pattern.finditer(text)]
    assert not wrong, "\n".join(wrong)


def documents() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".md" and path.parts[-2] != "licenses"]


def commands_in(path: Path) -> list[str]:
    """Lines of code blocks and inline code of a Markdown file."""
    text = path.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()] + inline


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))


def test_documented_commands_exist() -> None:
    assert REPOSITORY / "README.md" in documents(), "README.md is missing"
    targets, wrong = make_targets(), []
    for path in documents():
        for line in commands_in(path):
            verb = re.match(r"(?:\S*/)?wam ([a-z_-]+)", line)
            target = re.match(r"make ([a-z-]+)", line)
            if verb and verb.group(1) not in VERBS:
                wrong.append(f"{path.name}: `{line}`: no verb '{verb.group(1)}'")
            if target and target.group(1) not in targets:
                wrong.append(f"{path.name}: `{line}`: no make target '{target.group(1)}'")
    assert not wrong, "\n".join(wrong)


def test_the_readme_opens_with_the_two_commands() -> None:
    commands = commands_in(REPOSITORY / "README.md")
    assert any(line.startswith("make demo") for line in commands)
    assert any(line.startswith("make test") for line in commands)
