"""From a launch file and its arguments to the processes it asks for, as ``ros2 launch`` would start them.

Arguments keep the value they were given and otherwise take their default; ``let`` and ``set_env`` hold for what follows
and end with their group; what an ``include`` passes on or declares stays visible behind it; each ``param`` with a value
becomes a parameter file of its own, in order, so that the last one wins.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ros_nodes.launch_reader import Element, LaunchError, read_launch_file
from ros_nodes.launch_text import PACKAGE, ROOT, Scope, expand, expand_arguments, is_true, prefixes
from wam.errors import unknown_name

__all__ = ["Argument", "ParameterFile", "ProcessPlan", "declared_arguments", "plan"]

DEFAULT_TIMEOUT_S = 5.0  # of ros2 launch: from SIGINT to SIGTERM, and from there to SIGKILL
TYPES: Mapping[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (float, int)}
OUTPUTS = ("screen", "both")  # "log" would hide a node's errors from the person at the terminal


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument that a launch file, or one it includes, declares."""

    name: str
    description: str
    default: str | None  # None: has to be given
    choices: tuple[str, ...]  # empty: anything


@dataclass(frozen=True, kw_only=True)
class ParameterFile:
    """Parameters that a node reads from a file which is written when it starts."""

    text: str  # YAML


@dataclass(frozen=True, kw_only=True)
class ProcessPlan:
    """One process to start."""

    label: str  # before each line it prints: its executable and its number
    arguments: tuple[str | ParameterFile, ...]  # the whole command line
    environment: Mapping[str, str]  # complete
    respawn: bool = False
    respawn_delay_s: float = 0.0
    respawn_max_retries: int = -1  # negative: no end
    required: bool = False  # when it ends, everything ends
    sigterm_timeout_s: float = DEFAULT_TIMEOUT_S  # from SIGINT to SIGTERM
    sigkill_timeout_s: float = DEFAULT_TIMEOUT_S  # from SIGTERM to SIGKILL


@dataclass(kw_only=True)
class _State:
    """Where the evaluation of the files stands."""

    variables: dict[str, str]
    environment: dict[str, str]
    folder: Path
    processes: list[ProcessPlan] = field(default_factory=list)

    @property
    def scope(self) -> Scope:
        return Scope(variables=self.variables, environment=self.environment, folder=self.folder)


def declared_arguments(path: Path, environment: Mapping[str, str]) -> list[Argument]:
    """Returns the arguments of a launch file and of the files it includes, each once, in order.

    Raises:
        LaunchError: A file cannot be read.
    """
    found: dict[str, Argument] = {}
    for element in _arguments_in(read_launch_file(path), environment):
        name, default = element.attributes["name"], element.attributes.get("default")
        choices = tuple(choice.attributes["value"] for choice in element.named("choice"))
        argument = Argument(
            name=name, description=element.attributes.get("description", ""), default=default, choices=choices
        )
        found.setdefault(name, argument)
    return list(found.values())


def plan(path: Path, given: Mapping[str, str], environment: Mapping[str, str]) -> list[ProcessPlan]:
    """Works out which processes a launch file starts, in its order.

    Args:
        path: The launch file.
        given: Arguments by name.
        environment: Variables the processes inherit.

    Raises:
        LaunchError: The file or an argument cannot work; nothing was started.
    """
    declared = [argument.name for argument in declared_arguments(path, environment)]
    for name in given:
        if name not in declared:
            raise LaunchError(unknown_name("launch argument", name, declared))
    state = _State(variables=dict(given), environment=dict(environment), folder=path.resolve().parent)
    _run(read_launch_file(path).children, state)
    return state.processes


def _arguments_in(element: Element, environment: Mapping[str, str]) -> Iterator[Element]:
    for child in element.children:
        if child.tag == "arg":
            yield child
        elif child.tag == "group":
            yield from _arguments_in(child, environment)
        elif child.tag == "include":
            scope = Scope(variables={}, environment=environment, folder=element.file.resolve().parent)
            given = {argument.attributes["name"] for argument in child.named("arg")}
            included = read_launch_file(Path(_expand(child, "file", scope)))
            # What the include itself passes on is decided, so nobody can give it from outside.
            yield from (arg for arg in _arguments_in(included, environment) if arg.attributes["name"] not in given)


def _run(elements: list[Element], state: _State) -> None:
    for element in elements:
        if not _wanted(element, state.scope):
            continue
        if element.tag == "arg":
            _declare(element, state)
        elif element.tag == "let":
            state.variables[_expand(element, "name", state.scope)] = _expand(element, "value", state.scope)
        elif element.tag == "set_env":
            state.environment[_expand(element, "name", state.scope)] = _expand(element, "value", state.scope)
        elif element.tag == "group":
            _run_group(element, state)
        elif element.tag == "include":
            _include(element, state)
        else:
            label = f"{_expand(element, 'exec', state.scope)}-{len(state.processes) + 1}"
            state.processes.append(_process(element, label, state))


def _run_group(element: Element, state: _State) -> None:
    before = dict(state.variables), dict(state.environment)
    _run(element.children, state)
    if is_true(element.attributes.get("scoped", "true"), state.scope):
        state.variables, state.environment = before


def _include(element: Element, state: _State) -> None:
    path = Path(_expand(element, "file", state.scope))
    for argument in element.named("arg"):
        state.variables[argument.attributes["name"]] = _expand(argument, "value", state.scope)
    folder, state.folder = state.folder, path.resolve().parent
    _run(read_launch_file(path).children, state)
    state.folder = folder


def _declare(element: Element, state: _State) -> None:
    name = element.attributes["name"]
    if name not in state.variables:
        if "default" not in element.attributes:
            what = element.attributes.get("description", "no description")
            raise element.error(f"launch argument '{name}' is required ({what}): add {name}:=<value>.")
        state.variables[name] = _expand(element, "default", state.scope)
    choices = [choice.attributes["value"] for choice in element.named("choice")]
    if choices and state.variables[name] not in choices:
        raise element.error(unknown_name(f"value of launch argument {name}", state.variables[name], choices))


def _process(element: Element, label: str, state: _State) -> ProcessPlan:
    scope = state.scope
    environment = dict(state.environment)
    for variable in element.named("env"):
        environment[variable.attributes["name"]] = _expand(variable, "value", scope)
    command = _executable(element, scope, environment)
    if "output" in element.attributes and element.attributes["output"] not in OUTPUTS:
        raise element.error(unknown_name("output", element.attributes["output"], OUTPUTS))
    if element.attributes.get("on_exit", "shutdown") != "shutdown":
        raise element.error(unknown_name("on_exit", element.attributes["on_exit"], ["shutdown"]))
    respawn = _value(element, "respawn", "bool", False, scope)
    if respawn and "on_exit" in element.attributes:
        raise element.error("respawn and on_exit contradict each other: a node is restarted, or its end ends all.")
    return ProcessPlan(
        label=label,
        arguments=(*command, *_node_arguments(element, scope)),
        environment=environment,
        respawn=respawn,
        respawn_delay_s=_value(element, "respawn_delay", "float", 0.0, scope),
        respawn_max_retries=_value(element, "respawn_max_retries", "int", -1, scope),
        required="on_exit" in element.attributes,
        sigterm_timeout_s=_value(element, "sigterm_timeout", "float", DEFAULT_TIMEOUT_S, scope),
        sigkill_timeout_s=_value(element, "sigkill_timeout", "float", DEFAULT_TIMEOUT_S, scope),
    )


def _executable(element: Element, scope: Scope, environment: dict[str, str]) -> list[str]:
    """Returns the installed executable or, in a checkout, the module that it would run."""
    package, name = _expand(element, "pkg", scope), _expand(element, "exec", scope)
    for prefix in prefixes(environment):
        path = prefix / "lib" / package / name
        if path.is_file() and os.access(path, os.X_OK):
            return [str(path)]
    module = f"ros_nodes.{name}_node"
    if package == PACKAGE and name.isidentifier() and find_spec(module) is not None:
        # The checkout need not be the current folder, and rclpy's wheels need their prefix named.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
        environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)
        return [sys.executable, "-m", module]
    raise element.error(
        f"package '{package}' has no executable '{name}': build and source its workspace, or for '{PACKAGE}' choose "
        "one of the nodes in ros_nodes/."
    )


def _node_arguments(element: Element, scope: Scope) -> Iterator[str | ParameterFile]:
    yield from _split(element, "args", scope)
    own = _split(element, "ros_args", scope)
    yield from ["--ros-args", *own] if own else []
    yield "--ros-args"
    name = _expand(element, "name", scope) if "name" in element.attributes else ""
    if name:
        yield from ("-r", f"__node:={name}")
    namespace = ""
    if "namespace" in element.attributes:
        namespace = "/" + _expand(element, "namespace", scope).strip("/")
        yield from ("-r", f"__ns:={namespace}")
    full_name = f"{namespace.rstrip('/')}/{name}" if name and namespace else "/**"
    for parameter in element.named("param"):
        yield "--params-file"
        yield _parameters(parameter, full_name, scope)
    for remap in element.named("remap"):
        yield from ("-r", f"{_expand(remap, 'from', scope)}:={_expand(remap, 'to', scope)}")


def _parameters(element: Element, node: str, scope: Scope) -> str | ParameterFile:
    given = set(element.attributes)
    if given == {"from"}:
        path = _expand(element, "from", scope)
        if not Path(path).is_file():
            raise element.error(f"parameter file {path} does not exist.")
        return path
    if "from" in given or not given >= {"name", "value"}:
        raise element.error("a parameter has 'name' and 'value' (and perhaps 'type'), or 'from' alone.")
    value = _typed(element, _expand(element, "value", scope), element.attributes.get("type", ""))
    parameters = {_expand(element, "name", scope): value}
    return ParameterFile(text=yaml.safe_dump({node: {"ros__parameters": parameters}}))


def _typed(element: Element, text: str, kind: str) -> Any:
    """Returns a value of the named type, or of the one its text has in YAML."""
    if kind and kind not in TYPES:
        raise element.error(unknown_name("type", kind, TYPES))
    if kind == "str":
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    good = type(value) in (TYPES[kind] if kind else (str, bool, int, float))
    if not good:
        raise element.error(f"'{text}' is not {f'of type {kind}' if kind else 'a value; for text give a type of str'}.")
    return float(value) if kind == "float" else value


def _value(element: Element, name: str, kind: str, default: Any, scope: Scope) -> Any:
    if name not in element.attributes:
        return default
    value = _typed(element, _expand(element, name, scope), kind)
    if kind == "float" and value < 0.0:
        raise element.error(f"{name} is {value} but must not be negative.")
    return value


def _wanted(element: Element, scope: Scope) -> bool:
    try:
        if "if" in element.attributes:
            return is_true(element.attributes["if"], scope)
        return "unless" not in element.attributes or not is_true(element.attributes["unless"], scope)
    except LaunchError as error:
        raise element.error(str(error)) from error


def _expand(element: Element, name: str, scope: Scope) -> str:
    try:
        return expand(element.attributes[name], scope)
    except LaunchError as error:
        raise element.error(f"attribute '{name}': {error}") from error


def _split(element: Element, name: str, scope: Scope) -> list[str]:
    try:
        return expand_arguments(element.attributes.get(name, ""), scope)
    except LaunchError as error:
        raise element.error(f"attribute '{name}': {error}") from error
