"""``python -m ros_nodes.up``: it starts what ``ros2 launch`` starts, refuses the unknown, ends what it began."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ros_nodes.launch_plan import ParameterFile, declared_arguments, plan
from ros_nodes.launch_reader import LaunchError, read_launch_file
from ros_nodes.launch_text import Scope, expand, expand_arguments, is_true
from ros_nodes.up import find_launch_file, main, parse_arguments
from tests.launch_golden import CASES, GOLDEN, make_package, started

REPOSITORY = Path(__file__).resolve().parent.parent
UP = [sys.executable, "-m", "ros_nodes.up"]
PATIENCE = 120.0  # [s]


def environment(*prefixes: Path) -> dict[str, str]:
    """Of a process that finds packages in these prefixes and ``ros_nodes`` in this repository."""
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": os.pathsep.join(str(prefix) for prefix in prefixes),
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.mark.parametrize("case", CASES)
def test_processes_get_what_ros2_launch_gives_them(case: str, tmp_path: Path) -> None:
    assert started(UP, CASES[case], environment()) == json.loads(GOLDEN.read_text())[case]


@pytest.mark.skipif(shutil.which("ros2") is None, reason="needs ROS's command line tools")
@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_what_ros2_launch_does_here(case: str) -> None:
    assert started(["ros2", "launch"], CASES[case], dict(os.environ)) == json.loads(GOLDEN.read_text())[case]


# ---------------------------------------------------------------------------------------------- reading


def refusal(tmp_path: Path, content: str, *arguments: str) -> str:
    """The message for a launch file with this content."""
    file = tmp_path / "bad.launch.xml"
    file.write_text(f"<launch>\n{content}\n</launch>\n")
    if not (tmp_path / "prefix").exists():
        make_package(tmp_path / "prefix")
    with pytest.raises(LaunchError) as refused:
        plan(file, parse_arguments(arguments), {"AMENT_PREFIX_PATH": str(tmp_path / "prefix")})
    message = str(refused.value)
    return message.replace(str(tmp_path), "TMP")


NODE = '<node pkg="show_package" exec="show" name="a"'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<nodes/>", "bad.launch.xml:2: <nodes>: unknown tag inside <launch> 'nodes' (did you mean 'node'?)"),
        ("\n\n<executable cmd='x'/>", "bad.launch.xml:4: <executable>: unknown tag inside <launch>"),
        ("<arg nam='x'/>", "<arg>: unknown attribute 'nam' (did you mean 'name'?)"),
        ("<let name='x'/>", "<let>: attribute 'value' is missing"),
        ("<let name='x' value='1' if='true' unless='true'/>", "'if' and 'unless' cannot stand together"),
        ("<let name='x' value='1' if='maybe'/>", "'maybe' is 'maybe', but a condition must be true or false"),
        ("<let name='x' value='$(var y)'/>", "bad.launch.xml:2: <let>: attribute 'value': unknown argument or let 'y'"),
        ("<let name='x' value='$(env WAM_NO_SUCH)'/>", "environment variable 'WAM_NO_SUCH' is not set"),
        ("<let name='x' value='$(eval 1)'/>", "unknown substitution '$(eval)'"),
        ("<let name='x' value='$(dirname a)'/>", "$(dirname a) has the wrong number of arguments"),
        ("<let name='x' value='$(var  y)'/>", "words inside $(...) are separated by one space"),
        ("<let name='x' value='$(var y'/>", "$( is never closed"),
        ("<let name='x' value='a\\b'/>", "which launch files here must do without"),
        ("<let name='x' value='$(find-pkg-share nope)'/>", "package 'nope' is not installed in TMP/prefix"),
        ("<node pkg='show_package' exec='hide' name='a'/>", "package 'show_package' has no executable 'hide'"),
        (
            "<node pkg='world_action_model' exec='no_such' name='a'/>",
            "'world_action_model' has no executable 'no_such'",
        ),
        (f"{NODE} output='log'/>", "unknown output 'log'"),
        (f"{NODE} on_exit='restart'/>", "unknown on_exit 'restart'"),
        (f"{NODE} respawn='true' on_exit='shutdown'/>", "respawn and on_exit contradict each other"),
        (f"{NODE} respawn='often'/>", "'often' is not of type bool"),
        (f"{NODE} respawn_delay='-1'/>", "respawn_delay is -1.0 but must not be negative"),
        (f"{NODE} args=' a'/>", "begins or ends with a space"),
        (f"{NODE}><param name='x'/></node>", "a parameter has 'name' and 'value'"),
        (f"{NODE}><param from='x' name='y'/></node>", "a parameter has 'name' and 'value'"),
        (f"{NODE}><param from='/no/such.yaml'/></node>", "parameter file /no/such.yaml does not exist"),
        (f"{NODE}><param name='x' value='1' type='number'/></node>", "unknown type 'number'"),
        (f"{NODE}><param name='x' value='1.5' type='int'/></node>", "'1.5' is not of type int"),
        (f"{NODE}><param name='x' value=''/></node>", "'' is not a value; for text give a type of str"),
        (f"{NODE}><param name='x' value='[1, a]'/></node>", "'[1, a]' is not a value"),
        ("<include file='/no/such.launch.xml'/>", "launch file /no/such.launch.xml cannot be read: No such file"),
        ("<arg name='bundle' description='its folder'/>", "launch argument 'bundle' is required (its folder)"),
        ("some text", "<launch>: text 'some text' is not allowed here"),
        ("<node", "bad.launch.xml:3: not valid XML"),
    ],
)
def test_what_is_not_known_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    assert message in refusal(tmp_path, content)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    arg = "<arg name='robot' default='sim6'><choice value='sim6'/><choice value='so101'/></arg>"
    assert "unknown launch argument 'robt' (did you mean 'robot'?)" in refusal(tmp_path, arg, "robt:=sim6")
    wrong = refusal(tmp_path, arg, "robot:=so100")
    assert "unknown value of launch argument robot 'so100' (did you mean 'so101'?)" in wrong
    for word in ("robot", "robot:=", ":=sim6", "robot=sim6"):
        with pytest.raises(LaunchError, match="is not a launch argument: write name:=value"):
            parse_arguments([word])
    with pytest.raises(LaunchError, match="'robot' was given twice: 'a' and 'b'"):
        parse_arguments(["robot:=a", "robot:=b"])


def test_a_file_that_is_no_launch_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "robot.xml").write_text("<robot/>")
    with pytest.raises(LaunchError, match=r"robot.xml:1: <robot>: a launch file must begin with <launch>"):
        read_launch_file(tmp_path / "robot.xml")
    with pytest.raises(LaunchError, match="unknown launch file 'no_such'; valid names: .*Or give the path of one"):
        find_launch_file("no_such")


def test_an_argument_given_by_an_include_cannot_be_given_from_outside(tmp_path: Path) -> None:
    file = make_package(tmp_path)
    variables = {"AMENT_PREFIX_PATH": str(tmp_path)}
    names = [argument.name for argument in declared_arguments(file, variables)]
    assert names == ["robot", "task", "side", "sim", "inner"]
    with pytest.raises(LaunchError, match="unknown launch argument 'word'"):
        plan(file, {"word": "x"}, variables)


def test_restarts_and_time_outs_are_read(tmp_path: Path) -> None:
    last = plan(make_package(tmp_path), {}, {"AMENT_PREFIX_PATH": str(tmp_path)})[-1]
    assert (last.label, last.respawn, last.respawn_delay_s, last.respawn_max_retries) == ("show-4", False, 1.5, 3)
    assert (last.sigterm_timeout_s, last.sigkill_timeout_s, last.required) == (2.0, 1.5, False)
    assert [argument for argument in last.arguments if isinstance(argument, ParameterFile)]


WORDS = st.text(st.characters(codec="ascii", exclude_characters="\\'\"$\0", categories=["L", "N", "P"]), min_size=1)


@given(st.lists(WORDS, min_size=1), st.text(st.characters(codec="ascii")))
def test_arguments_split_at_spaces_and_never_inside_a_value(words: list[str], value: str) -> None:
    scope = Scope(variables={"v": value}, environment={}, folder=Path("/"))
    assert expand_arguments("  ".join(words), scope) == words
    assert expand_arguments(" ".join(f"{word}$(var v)" for word in words), scope) == [word + value for word in words]
    assert expand_arguments(f"$(var v) {words[0]}", scope) == [value, words[0]]
    assert expand(f"{words[0]}$(var no $(var v)){words[-1]}", scope) == words[0] + value + words[-1]


def test_conditions_are_true_or_false_in_any_case() -> None:
    scope = Scope(variables={}, environment={}, folder=Path("/"))
    assert [is_true(text, scope) for text in ("true", "TRUE", " 1", "false", "False", "0")] == [True] * 3 + [False] * 3


# ---------------------------------------------------------------------------------------------- the command line


def test_show_args_lists_every_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert main([str(make_package(tmp_path)), "--show-args"]) == 0
    text = capsys.readouterr().out
    assert "  robot  (default: sim6)\n      robot file" in text
    assert "  side  (default: empty; one of: , left, /right)" in text
    assert "  inner  (default: from_inside)" in text


def test_print_gives_commands_that_a_shell_can_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out = tmp_path / "calls"
    for name, value in {"AMENT_PREFIX_PATH": tmp_path, "WAM_GOLDEN_OUT": out, "WAM_GOLDEN_ROOT": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    file = make_package(tmp_path)
    assert main([str(file), "--print", "task:=lift it", "side:=left"]) == 0
    text = capsys.readouterr().out
    assert text.count("# show-") == 4
    assert not out.exists(), "something was started"
    arm = text.splitlines()[1]
    subprocess.run(["bash", "-c", arm], check=True)
    call = json.loads(out.read_text())
    assert "task:=lift it" not in call["arguments"]
    assert call["arguments"][:5] == ["--ros-args", "-r", "__node:=arm", "-r", "__ns:=/left"]


def test_bad_arguments_end_with_status_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert main([str(make_package(tmp_path)), "robt:=x"]) == 2
    assert capsys.readouterr().err.startswith("up: unknown launch argument 'robt' (did you mean 'robot'?)")


# ---------------------------------------------------------------------------------------------- processes

SCRIPTS = {
    # Says what ended it, into the file its node is named after.
    "polite": 'trap "echo INT; exit 0" INT; trap "echo TERM; exit 0" TERM; echo ready; while :; do sleep 0.05; done',
    "stubborn": 'trap "echo ignored INT" INT; trap "echo ignored TERM" TERM; echo ready; while :; do sleep 0.05; done',
    "careful": 'trap "" PIPE; trap "echo asked > $0.said; exit 0" TERM; while :; do echo on; sleep 0.05; done',
    "short": "echo once; exit 0",
    "failing": "echo oops >&2; exit 3",
    "unfinished": "printf 'no newline'",
    "parent": 'sleep 1000 & trap "exit 0" INT; echo "child $!"; while :; do wait; done',
    "silent": "exec >&- 2>&-; kill -INT $PPID; exec sleep 1000",
}


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A prefix with a package ``fake`` whose executables are the scripts above."""
    (tmp_path / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (tmp_path / "share/ament_index/resource_index/packages/fake").touch()
    (tmp_path / "lib/fake").mkdir(parents=True)
    for name, script in SCRIPTS.items():
        path = tmp_path / "lib/fake" / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
    return tmp_path


def wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it may go while it is looked at
        while "zombie" not in Path(f"/proc/{pid}/status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)


class Up:
    """One running ``ros_nodes.up``."""

    def __init__(self, prefix: Path, *nodes: str) -> None:
        body = "\n".join(f'<node pkg="fake" exec="{node.split()[0]}" {" ".join(node.split()[1:])}/>' for node in nodes)
        file = prefix / "test.launch.xml"
        file.write_text(f"<launch>{body}</launch>")
        self.process = subprocess.Popen(
            [*UP, str(file)], env=environment(prefix), stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.lines: list[str] = []

    def until(self, text: str, times: int = 1) -> str:
        """Reads on until a line with this text has come so many times; returns it."""
        assert self.process.stdout
        seen = [line for line in self.lines if text in line]
        while len(seen) < times:
            line = self.process.stdout.readline()
            assert line, f"ended without '{text}': {self.lines}"
            self.lines.append(line.rstrip("\n"))
            seen += [line] if text in line else []
        return seen[-1]

    def pid(self, label: str, times: int = 1) -> int:
        return int(self.until(f"[up] {label} started", times).split("pid ")[1].rstrip(")\n"))

    def end(self) -> int:
        """Reads the rest and returns the exit status."""
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.lines += rest.splitlines()
        return self.process.returncode


@pytest.fixture
def ups() -> Iterator[list[Up]]:
    running: list[Up] = []
    yield running
    for up in running:
        up.process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_last_one_first(fake: Path, ups: list[Up], number: signal.Signals) -> None:
    ups.append(up := Up(fake, "polite name='arm'", "polite name='guard'", "polite name='policy'"))
    up.until("ready", times=3)
    up.process.send_signal(number)
    assert up.end() == 0
    ends = [line for line in up.lines if " ended " in line]
    assert ends == [f"[up] polite-{i} ended with status 0" for i in (3, 2, 1)]
    assert [line for line in up.lines if "INT" in line and line.startswith("[polite")] == [
        f"[polite-{i}] INT" for i in (3, 2, 1)
    ]


def test_output_carries_the_label_and_nothing_is_lost(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "short", "unfinished"))
    assert up.end() == 0
    assert "[short-1] once" in up.lines
    assert "[unfinished-2] no newline" in up.lines


def test_a_node_that_closes_its_output_is_still_looked_after(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "silent sigterm_timeout='1'"))
    assert up.end() == 0
    assert "[up] silent-1 ended with SIGINT" in up.lines


def test_a_failed_node_makes_status_1_and_the_rest_goes_on(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "failing", "polite"))
    up.until("[failing-1] oops")
    up.until("[up] failing-1 ended with status 3")
    up.until("ready")
    assert up.process.poll() is None
    up.process.send_signal(signal.SIGINT)
    assert up.end() == 1


def test_a_killed_node_is_started_again_with_the_same_arguments(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "polite respawn='true' respawn_delay='0.1'", "polite"))
    first = up.pid("polite-1")
    up.until("ready", times=2)
    os.kill(first, signal.SIGKILL)
    up.until("[up] polite-1 ended with SIGKILL")
    assert up.pid("polite-1", times=2) != first
    up.until("ready", times=3)
    up.process.send_signal(signal.SIGINT)
    assert up.end() == 0


def test_an_end_and_the_end_of_output_that_come_at_once_are_one_end(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "parent respawn='true' respawn_delay='0.1'"))
    node, child = up.pid("parent-1"), int(up.until("child").split()[-1])
    while Path(f"/proc/{up.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)  # it has not gone back to waiting yet
    up.process.send_signal(signal.SIGSTOP)  # not run for a moment, it hears of both when it is run again
    for pid in (node, child):  # the child outlives the node and keeps its output open
        os.kill(pid, signal.SIGKILL)
        wait_for_the_end_of(pid)
    up.process.send_signal(signal.SIGCONT)
    up.until("[up] parent-1 ended with SIGKILL")
    child = int(up.until("child", times=2).split()[-1])
    up.process.send_signal(signal.SIGINT)
    assert up.end() == 0
    os.kill(child, signal.SIGKILL)


def test_restarts_end_where_the_file_says(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "failing respawn='true' respawn_max_retries='2'"))
    assert up.end() == 1
    assert sum("started" in line for line in up.lines) == 3


def test_the_end_of_a_required_node_ends_everything(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "polite on_exit='shutdown'", "polite respawn='true'"))
    pid = up.pid("polite-1")
    up.until("ready", times=2)
    os.kill(pid, signal.SIGKILL)
    assert up.end() == 1
    assert "[up] polite-1 is required: stopping" in up.lines
    assert "[polite-2] INT" in up.lines


def test_a_node_that_does_not_end_is_killed_after_its_time(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "stubborn sigterm_timeout='0.1' sigkill_timeout='0.1'"))
    up.until("ready")
    up.process.send_signal(signal.SIGINT)
    assert up.end() == 0
    assert [line for line in up.lines if "does not end" in line] == [
        "[up] stubborn-1 does not end: SIGTERM",
        "[up] stubborn-1 does not end: SIGKILL",
    ]


def test_a_hung_node_does_not_keep_the_others_from_a_second_signal(fake: Path, ups: list[Up]) -> None:
    ups.append(up := Up(fake, "polite", "polite sigterm_timeout='30'"))
    hung = up.pid("polite-2")
    up.until("ready", times=2)
    os.kill(hung, signal.SIGSTOP)
    up.process.send_signal(signal.SIGINT)
    up.until("stopping; a second signal")
    up.process.send_signal(signal.SIGINT)
    up.until("[up] polite-1 ended with status 0")
    assert up.process.poll() is None
    os.kill(hung, signal.SIGCONT)
    assert up.end() == 0


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "nobody takes its output"])
def test_when_it_fails_its_nodes_may_stop_softly(fake: Path, ups: list[Up], killed: bool) -> None:
    ups.append(up := Up(fake, "careful"))
    pid = up.pid("careful-1")
    up.until("on")
    up.process.kill() if killed else up.process.stdout.close()  # type: ignore[union-attr]
    wait_for_the_end_of(pid)
    assert (fake / "lib/fake/careful.said").read_text() == "asked\n"


def test_a_program_that_cannot_be_started_stops_the_others(fake: Path, ups: list[Up]) -> None:
    (fake / "lib/fake/broken").write_text("#!/no/such/interpreter\n")
    (fake / "lib/fake/broken").chmod(0o755)
    ups.append(up := Up(fake, "polite", "broken"))
    assert up.end() == 1
    assert any("[up] broken-2 cannot be started" in line for line in up.lines)
