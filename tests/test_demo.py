"""``wam demo``: what it writes, that an interruption costs nothing, and every message for what cannot work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim import demo
from sim.demo import RECIPES, DemoConfig, main, stage_commands
from sim.demo_stages import StageCommand, locked, open_state, run_stages
from sim.plots import TIMINGS
from sim.results import episode_record, summarise_rows, write_json
from sim.rollout import Episode
from sim.splits import SPLITS, episode_seeds, split_of
from sim.statistics import percentiles_ms
from sim.tasks import task_names
from wam.cli import main as wam
from wam.errors import WamError

# A stage that takes twenty turns, keeps what it has when it is interrupted, and goes on from there.
TURNS = 20
STAGE = """
import os, signal, sys, time
from pathlib import Path
name, out, source, pace = sys.argv[1:]  # pace: one stage and how long each of its turns takes, "train=0.5"
slow, _, seconds = pace.partition("=")
Path(out).parent.mkdir(parents=True, exist_ok=True)
Path(out).with_suffix(".pid").write_text(str(os.getpid()))
turns = Path(out).with_suffix(".turns")
stop = []
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
with turns.open("a") as log:
    while len(turns.read_text().splitlines()) < 20:
        log.write(name + "\\n")
        log.flush()
        time.sleep(float(seconds) if slow == name else 0.0)
        if stop:
            sys.exit(130)
text = Path(source).read_text() if source else name
Path(out).write_text(text)
"""
RUNNER = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from sim.demo import main
from sim.demo_stages import StageCommand
out, stage, source, pace = sys.argv[1:]
def command(name, output, source=""):
    return StageCommand(name=name, argv=(sys.executable, stage, name, output, source, pace), output=Path(output))
commands = [
    command("collect", out + "/dataset"),
    command("train", out + "/train"),
    command("evaluate", out + "/evaluate/results.json", source),
]
sys.exit(main(["--task", "reach", "--out", out], commands=commands))
"""


def evaluation() -> dict:
    outcomes = ["success"] * 9 + ["timeout"]
    episodes = [
        Episode(seed=seed, outcome=outcome, steps=2, seconds=0.2, progress=(0.0, 0.5, 1.0), latency_ms=(4.0, 6.0))
        for seed, outcome in zip(SPLITS["test"], outcomes, strict=False)
    ]
    return {
        "task": "reach",
        "split": "test",
        "control_dt": 0.1,
        "command": "wam evaluate",
        "settings": {},
        "loop": {"mode": "async", "latency_s": 0.004, "execution_horizon": 8},
        "n_steps": 4,
        "latency_ms": percentiles_ms([4.0, 6.0] * 10),
        "latency_alone_ms": percentiles_ms([3.0]),
        "versions": {},
        "git_commit": "0123abc",
        "gl_backend": "egl",
        "backend": "onnx",
        "device": "Some CPU, 2 cores",
        "rows": summarise_rows({"policy": episodes}),
        "videos": [],
        "episodes": [episode_record("policy", episode) for episode in episodes],
    }


@pytest.fixture
def fake(tmp_path: Path) -> tuple[Path, list[str]]:
    """A demo folder and the command of a demo with fake stages in it, for a process of its own."""
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "runner.py").write_text(RUNNER.format(path=sys.path))
    write_json(tmp_path / "evaluation.json", evaluation())
    out = tmp_path / "demo"
    files = [str(out), str(tmp_path / "stage.py"), str(tmp_path / "evaluation.json")]
    return out, [sys.executable, str(tmp_path / "runner.py"), *files]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, ""], capture_output=True, text=True, timeout=600, check=False)


def start_and_wait_for(path: Path, command: list[str], *, pace: str, turns: int) -> subprocess.Popen[str]:
    """Starts a demo one stage of which takes its time, and waits until a stage has taken some turns."""
    process = subprocess.Popen([*command, pace], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 500
    while not (path.is_file() and len(path.read_text().splitlines()) >= turns):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_demo_runs_its_stages_and_writes_the_promised_keys(fake: tuple[Path, list[str]]) -> None:
    out, command = fake
    done = run(command)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert (results["task"], results["episodes"], results["successes"]) == ("reach", 10, 9)
    assert 0.5 < results["success_low"] < 0.9 < results["success_high"] < 1.0
    assert (results["chunk_p50_ms"], results["chunk_p99_ms"], results["device"]) == (5.0, 6.0, "Some CPU, 2 cores")
    seconds = results["wall_seconds"]
    assert list(seconds) == ["collect", "train", "evaluate", "total"]
    assert seconds["total"] == pytest.approx(seconds["collect"] + seconds["train"] + seconds["evaluate"], abs=0.2)
    assert "9 of 10 episodes solved" in (out / "report.html").read_text()
    assert "[2/3] train" in done.stdout
    assert "reach: 9 of 10 test episodes solved (90.0 %, 95 % interval 55.5 % to 99.7 %)" in done.stdout
    assert str(out / "report.html") in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_goes_on_where_it_was(fake: tuple[Path, list[str]], number: signal.Signals) -> None:
    out, command = fake
    process = start_and_wait_for(out / "train.turns", command, pace="train=1.0", turns=2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "while stage 'train' ran: nothing is lost, the same command goes on" in stderr
    assert not (out / "train").exists()
    before = json.loads((out / "demo.json").read_text())["stages"]
    assert (before["collect"]["done"], before["train"]["done"]) == (True, False)

    done = run(command)
    assert done.returncode == 0, done.stderr
    assert "[1/3] collect: done before" in done.stdout
    # Twenty turns in all: the ones before the interruption were not taken twice.
    assert len((out / "train.turns").read_text().splitlines()) == TURNS
    after = json.loads((out / "demo.json").read_text())["stages"]
    assert (after["collect"], after["train"]["attempts"]) == (before["collect"], 2)
    assert after["train"]["wall_seconds"] > before["train"]["wall_seconds"] > 0.2


def test_a_killed_demo_keeps_its_times_and_its_orphan_keeps_others_out(fake: tuple[Path, list[str]]) -> None:
    out, command = fake
    process = start_and_wait_for(out / "dataset.turns", command, pace="collect=3.0", turns=2)

    def seconds() -> float:
        return json.loads((out / "demo.json").read_text())["stages"]["collect"]["wall_seconds"]

    deadline = time.monotonic() + 500
    while seconds() < 2.0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=60)  # not communicate: the orphan still holds the pipes
    assert seconds() >= 2.0
    with pytest.raises(WamError, match="a stage that one left running, works in .*: wait for it or end it"):
        play(out, [])

    os.kill(int((out / "dataset.pid").read_text()), signal.SIGINT)
    wait_until_free(out)
    process.communicate(timeout=60)
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert len((out / "dataset.turns").read_text().splitlines()) == TURNS


def wait_until_free(folder: Path) -> None:
    deadline = time.monotonic() + 500
    while time.monotonic() < deadline:
        try:
            with locked(folder):
                return
        except WamError:
            time.sleep(0.1)
    pytest.fail("the orphan did not end")


def stage(name: str, output: Path, code: str) -> StageCommand:
    return StageCommand(name=name, argv=(sys.executable, "-c", code), output=output)


def touch(path: Path) -> str:
    return f"open({str(path)!r}, 'w').close()"


def play(folder: Path, stages: list[StageCommand]) -> None:
    with locked(folder) as lock:
        run_stages(open_state(folder, {"task": "reach"}), stages, lock)


def test_a_failed_stage_is_named_and_the_ones_before_it_are_kept(tmp_path: Path) -> None:
    first = stage("collect", tmp_path / "a", touch(tmp_path / "a"))
    with pytest.raises(WamError, match="stage 'train' failed with status 2; its own message stands above"):
        play(tmp_path, [first, stage("train", tmp_path / "b", "import sys; sys.exit(2)")])
    never = stage("collect", tmp_path / "a", "import sys; sys.exit(9)")
    play(tmp_path, [never, stage("train", tmp_path / "b", touch(tmp_path / "b"))])


def test_a_stage_that_leaves_nothing_is_not_done(tmp_path: Path) -> None:
    with pytest.raises(WamError, match="stage 'export' ended well but .*bundle is not there"):
        play(tmp_path, [stage("export", tmp_path / "bundle", "pass")])


def test_when_an_output_is_gone_that_stage_and_all_later_ones_run_again(tmp_path: Path) -> None:
    names = ("collect", "train", "export")
    stages = [stage(name, tmp_path / name, f"open({str(tmp_path / name)!r}, 'a').write('x')") for name in names]
    play(tmp_path, stages)
    (tmp_path / "train").unlink()
    play(tmp_path, stages)
    assert [(tmp_path / name).read_text() for name in names] == ["x", "x", "xx"]


def test_other_settings_are_refused_and_named(fake: tuple[Path, list[str]], tmp_path: Path) -> None:
    out, command = fake
    assert run(command).returncode == 0
    with pytest.raises(WamError) as refused:
        main(["--task", "lift", "--out", str(out), "--seed", "3"], commands=[])
    message = str(refused.value)
    assert "holds a demo with other settings" in message
    assert "task is reach there, lift asked" in message
    assert "seed is 0 there, 3 asked" in message
    assert "--fresh to delete it" in message


def test_fresh_deletes_the_demo_and_only_the_demo(fake: tuple[Path, list[str]]) -> None:
    out, command = fake
    assert run(command).returncode == 0
    (out / "notes.txt").write_text("mine")
    again = [StageCommand(name="collect", argv=(sys.executable, "-c", "raise SystemExit(1)"), output=out / "x")]
    with pytest.raises(WamError, match="stage 'collect' failed with status 1"):
        main(["--task", "lift", "--out", str(out), "--fresh"], commands=again)
    assert not (out / "results.json").exists()
    assert not (out / "dataset").exists()
    assert (out / "notes.txt").read_text() == "mine"


def test_edited_settings_do_not_pass_for_the_demos_own(tmp_path: Path) -> None:
    first = stage("collect", tmp_path / "a", touch(tmp_path / "a"))
    play(tmp_path, [first])
    path = tmp_path / "demo.json"
    path.write_text(path.read_text().replace('"reach"', '"lift"'))
    with pytest.raises(WamError, match="its settings were edited"):
        open_state(tmp_path, {"task": "lift"})
    path.write_text("{")
    with pytest.raises(WamError, match="cannot be read.*--fresh"):
        open_state(tmp_path, {"task": "lift"})


@pytest.mark.parametrize("extra", [[], ["--fresh"]])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, extra: list[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(WamError, match=r"is not empty \(thesis.tex\) and was not made by wam demo"):
        main(["--task", "reach", "--out", str(tmp_path), *extra], commands=[])
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "lfit"], "unknown task 'lfit' (did you mean 'lift'?)"),
        (["--mode", "asinc"], "unknown mode 'asinc' (did you mean 'async'?)"),
        (["--robot", "sim7"], "unknown robot 'sim7' (did you mean 'sim6'?)"),
        (["--preset", "tinny"], "unknown preset 'tinny' (did you mean 'tiny'?)"),
        (["--latency-ms", "p50"], "unknown latency 'p50'"),
        (["--test-episodes", "0"], "test_episodes is 0 but must be at least 1"),
        (["--episodes", "-5"], "episodes is -5 but must be 0 or more"),
        (["--ros-episodes", "-1"], "ros_episodes is -1 but must be 0 or more"),
    ],
)
def test_bad_arguments_are_one_message_and_status_2_before_anything_starts(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wam(["demo", "--out", str(tmp_path / "demo"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_the_repeating_command_names_what_was_decided(tmp_path: Path) -> None:
    config = DemoConfig(task="reach", out=tmp_path, seed=3, video_loss=False, workers=2)
    recipe = RECIPES["reach"]
    assert config.command() == (
        f"wam demo --task reach --episodes {recipe.demonstrations} --train-steps {recipe.train_steps} --no-video-loss "
        "--seed 3"
    )
    assert "--out" not in config.command()


def test_every_task_has_a_recipe() -> None:
    assert set(RECIPES) == set(task_names())


def test_episodes_through_ros_are_the_last_stage_where_ros_is_there(tmp_path: Path, monkeypatch) -> None:
    config = DemoConfig(task="reach", out=tmp_path, ros_episodes=7)
    monkeypatch.setattr(demo, "ros_is_missing", lambda: False)
    last = stage_commands(config)[-1]
    assert (last.name, last.output) == ("ros", tmp_path / "ros/results.json")
    words = list(last.argv)
    assert words[1:3] == ["-m", "ros_nodes.closed_loop"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--bundle"] == str(tmp_path / "bundle")
    assert options["--episodes"] == "7"
    assert split_of(int(options["--first-seed"])) == "test"
    assert int(options["--first-seed"]) not in episode_seeds("test", 10_000)
    monkeypatch.setattr(demo, "ros_is_missing", lambda: True)
    assert [stage.name for stage in stage_commands(config)] == ["collect", "train", "export", "evaluate"]


def test_the_report_shows_what_came_through_ros_or_why_not(fake: tuple[Path, list[str]]) -> None:
    out, command = fake
    done = run(command)
    assert "through ROS not run here: needs rclpy" in done.stdout
    assert "Episodes through the real ROS graph: not run here: needs rclpy" in (out / "report.html").read_text()
    assert json.loads((out / "results.json").read_text())["ros"]["note"]

    samples = {name: [1.0, 2.0, 40.0] for name in TIMINGS}
    loop = {"ros": "jazzy", "episodes": 20, "successes": 19, "samples": samples}
    loop["numbers"] = {"chunk_rate_hz": 9.9, "image_age_p95_ms": 33.0}
    loop["percentiles"] = {"observation_to_command_ms": {"p50": 41.0}}
    (out / "ros").mkdir()
    write_json(out / "ros/results.json", loop)
    assert "through ROS 19 of 20" in run(command).stdout
    page = (out / "report.html").read_text()
    assert "<b>19 / 20</b>" in page
    assert all(title in page for title in TIMINGS.values())


def test_the_stages_are_commands_that_the_verbs_understand(tmp_path: Path) -> None:
    config = DemoConfig(
        task="push", out=tmp_path, episodes=7, train_steps=9, video_loss=False, seed=2, test_episodes=11
    )
    words = {each.name: list(each.argv) for each in stage_commands(config)}
    assert list(words)[:4] == ["collect", "train", "export", "evaluate"]

    def option(verb: str, name: str) -> str:
        return words[verb][words[verb].index(name) + 1]

    assert option("collect", "--episodes") == "7"
    assert (option("train", "--steps"), option("train", "--seed")) == ("9", "2")
    assert option("train", "--loss.video-weight") == "0"
    assert option("train", "--dataset") == option("collect", "--out")
    assert option("export", "--checkpoint") == option("train", "--out")
    assert option("evaluate", "--bundle") == option("export", "--out")
    assert option("evaluate", "--episodes") == "11"
    assert option("evaluate", "--also") == "frozen"
    assert {option(verb, "--robot") for verb in ("collect", "train", "evaluate")} == {"sim6"}
