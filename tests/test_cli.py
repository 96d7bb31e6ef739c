"""The console command: its table of verbs, its exit statuses and what it says when something is wrong."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import wam
from sim.bench import SUBCOMMANDS
from wam.cli import OPTIONAL_LIBRARIES, VERBS, Verb, main
from wam.errors import BundleError

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def probe_verb(monkeypatch: pytest.MonkeyPatch):
    """Adds the verb 'probe' whose main is the given function."""

    def add(function) -> None:
        module = types.ModuleType("probe_module")
        module.main = function
        monkeypatch.setitem(sys.modules, "probe_module", module)
        monkeypatch.setitem(VERBS, "probe", Verb(module="probe_module", help="only in this test"))

    return add


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", text, flags=re.MULTILINE)


def test_without_a_verb_prints_the_same_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    without = capsys.readouterr().out
    main(["-h"])
    assert capsys.readouterr().out == without


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wam {wam.__version__}\n"


def test_unknown_verb_suggests_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evalute"]) == 2
    captured = capsys.readouterr()
    assert "unknown verb 'evalute' (did you mean 'evaluate'?); valid names: bench, bench ros," in captured.err
    assert not captured.out


def test_arguments_and_status_pass_through(probe_verb) -> None:
    seen = []
    probe_verb(lambda argv: seen.append(argv) or 7)
    assert main(["probe", "--task", "lift"]) == 7
    assert seen == [["--task", "lift"]]


def test_our_errors_become_one_message(probe_verb, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(argv: list[str]) -> int:
        raise BundleError("bundle runs/x holds no manifest.json: export it again.")

    probe_verb(fail)
    assert main(["probe"]) == 2
    assert capsys.readouterr().err == "wam probe: bundle runs/x holds no manifest.json: export it again.\n"


def test_our_bugs_keep_their_traceback(probe_verb) -> None:
    probe_verb(lambda argv: {}["bug"])
    with pytest.raises(KeyError):
        main(["probe"])


def test_interrupt_is_short(probe_verb, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    probe_verb(interrupt)
    assert main(["probe"]) == 130
    assert capsys.readouterr().err.strip() == "wam probe: interrupted."


@pytest.mark.parametrize(("library", "extra"), sorted(OPTIONAL_LIBRARIES.items()))
def test_missing_library_names_its_extra(
    library: str, extra: str, probe_verb, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise ModuleNotFoundError(f"No module named '{library}.deep'", name=f"{library}.deep")

    probe_verb(fail)
    assert main(["probe"]) == 2
    message = capsys.readouterr().err
    assert f"needs the library '{library}', which is not installed here" in message
    assert f"pip install 'world_action_model[{extra}]'" in message
    assert ("source its setup script" in message) == (library == "rclpy")


def test_a_module_of_ours_that_is_missing_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "probe", Verb(module="wam.no_such_module", help="only in this test"))
    with pytest.raises(ModuleNotFoundError, match=r"wam\.no_such_module"):
        main(["probe"])


def test_runs_as_a_module_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, wam.cli; wam.cli.main(['--help']); "
        "print('heavy:', sorted({'torch', 'numpy', 'mujoco', 'tyro', 'lerobot'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "heavy: []" in result.stdout
    as_module = subprocess.run(
        [sys.executable, "-m", "wam.cli", "nonsense"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert as_module.returncode == 2
    assert "unknown verb 'nonsense'" in as_module.stderr


def help_of(verb: str) -> subprocess.CompletedProcess[str]:
    # A wide terminal, so that the help is not wrapped inside a word.
    command = ["env", "COLUMNS=400", sys.executable, "-m", "wam.cli", *verb.split(), "--help"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


def options_in(text: str) -> dict[str, str]:
    """Option -> everything its help says, from a verb's help text."""
    found: dict[str, str] = {}
    option = ""
    for line in (line.strip("│ ") for line in text.splitlines()):
        if line.startswith("--"):
            option, _, rest = line.partition(" ")
            found[option.rstrip(",")] = rest.strip()
            option = option.rstrip(",")
        elif line.startswith(("╭", "╰", "─")):
            option = ""
        elif option:
            found[option] += f" {line}"
    return found


def test_options_are_read_from_help() -> None:
    text = """
    ╭─ options ────────╮
    │ -h, --help  show │
    │ --robot STR      │
    │    robot name (default: sim6) │
    │ --json, --no-json  print JSON (default: False) │
    ╰──────────────────╯
    """
    assert options_in(text) == {
        "--robot": "STR robot name (default: sim6)",
        "--json": "--no-json  print JSON (default: False)",
    }


@pytest.mark.slow  # training and export import torch and lerobot
@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb_explains_every_option(verb: str) -> None:
    result = help_of(verb)
    assert result.returncode == 0, result.stderr
    assert f"usage: wam {verb}" in result.stdout
    options = options_in(result.stdout)
    assert options
    wrong = []
    for option, text in options.items():
        said, _, default = text.rpartition("(")
        if not default.startswith(("default: ", "required)", "repeatable)", "sets: ")) or len(said.split()) < 2:
            wrong.append(f"{option} {text}")
    assert not wrong, wrong


@pytest.mark.slow  # as above
def test_documented_options_exist() -> None:
    text = "\n".join(
        path.read_text() for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
    )
    wrong = []
    verbs = {*VERBS, *(f"bench {name}" for name in SUBCOMMANDS)}
    for verb in sorted(verbs):
        longer = "|".join(other.removeprefix(verb).strip() for other in verbs if other.startswith(f"{verb} "))
        others = rf"(?! (?:{longer})\b)" if longer else ""  # "wam bench ros" is not "wam bench"
        # A command ends at the end of its line or inline code; a backslash carries it on.
        commands = re.findall(rf"\bwam {verb}\b{others}((?:\\\n|[^`\n])*)", text)
        used = {option for command in commands for option in re.findall(r"(?<!\S)--[a-z][a-z.-]*", command)}
        known = set(re.findall(r"--[a-z][a-z.-]*", help_of(verb).stdout)) if used else set()
        wrong += [f"wam {verb} {option}" for option in sorted(used - known)]
    assert not wrong, wrong
