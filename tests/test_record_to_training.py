"""From a hand on the arm to a training step, with real processes: record, convert, train, and the same observations."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("lerobot")

from policy.wire import rgb_from_image, stamp_seconds
from sim.arm_sim import ArmSim
from sim.conversion import convert
from sim.convert_config import ConvertConfig
from sim.experts import ScriptedExpert
from sim.recordings import RecordedMessage, Recording, RecordingHeader, read_header
from sim.ticks import Tick, TickSettings, ticks
from tests.ros_fakes import AGES_OF_A_BUSY_MACHINE
from tests.ros_graph import Graph, Process
from tests.ros_guard_watch import GuardWatch
from wam import cli
from wam.dataset import load_episodes
from wam.dataset_check import check_dataset
from wam.robot import load_robot, robot_file
from wam.spec import OBS_STATE, Observation, image_key

pytestmark = [pytest.mark.ros, pytest.mark.slow]
ROBOT = load_robot("sim6")
SEED, TASK = 3, "reach"
# A message may reach one process just before a tick and the other just after it; a busy machine makes that longer.
RACE_NS = 50_000_000
EVERY_STATE = ("WAIT", "HOLD", "RUN_POLICY", "RUN_TELEOP", "FAULT")


def expert_targets(path: Path) -> Path:
    """What the scripted expert does in the scene that the arm node will show."""
    sim = ArmSim(TASK, ROBOT)
    sim.reset(SEED)
    expert = ScriptedExpert(sim, np.random.default_rng(0))
    targets = []
    while not sim.finished and len(targets) < sim.max_steps:
        targets.append(expert.act())
        sim.step(targets[-1])
    assert sim.finished
    sim.close()
    np.savez(path, action=np.stack(targets), rate_hz=ROBOT.control_rate_hz, names=ROBOT.action_names)
    return path


def patient_robot(folder: Path) -> Path:
    """The simulated arm with ages that a loaded machine, which also draws its pictures, can keep."""
    data = yaml.safe_load(robot_file("sim6").read_text())
    ages = {**AGES_OF_A_BUSY_MACHINE, "teleop_age_s": 0.5, "state_fault_s": 60.0}
    data["safety"] = {**(data.get("safety") or {}), **ages}
    path = folder / "sim6.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def finished(teleop: Process, replays: int) -> bool:
    return teleop.output().count("the replay is over") == replays  # the log of the process before goes on


def heard_the_task(live: Path) -> bool:
    """Whether the live aligner sees with an instruction; a latched one reaches a process when it finds its source."""
    lines = live.read_text().splitlines() if live.exists() else []
    return len(lines) > 1 and bool(json.loads(lines[-2])["task"])  # the last line may be half written


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Two recorded episodes of a scripted teleoperation, and what a live aligner saw meanwhile."""
    folder = tmp_path_factory.mktemp("session")
    targets = expert_targets(folder / "targets.npz")
    robot = f"robot:={patient_robot(folder)}"
    replay = (robot, "source:=replay", "dead_man:=none", f"replay_file:={targets}")
    with Graph(folder, shared_memory=True) as graph:
        graph.start("arm", robot, f"task:={TASK}", f"first_seed:={SEED}", "announce_task:=true")
        graph.start("guard", robot)
        graph.start("recorder", robot, f"folder:={folder / 'recordings'}")
        graph.start("tests/live_aligner.py", robot, f"out:={folder / 'live.jsonl'}")
        watch = GuardWatch(graph)
        graph.until(functools.partial(heard_the_task, folder / "live.jsonl"), "the live aligner hears the instruction")
        for episode in range(2):
            graph.insist("recorder/start")
            teleop = graph.start("teleop", *replay)
            graph.insist("guard/engage")
            graph.until(functools.partial(finished, teleop, episode + 1), "the replay is over")
            watch.until("HOLD")  # the recording goes on for a moment after the person let go
            answer = graph.call("recorder/stop")
            assert answer.success, answer.message
    live = [json.loads(line) for line in (folder / "live.jsonl").read_text().splitlines()]
    return folder, live


def test_live_inference_and_the_recording_saw_the_same(session):
    folder, live = session
    compared, whole, same = 0, 0, 0
    for path in sorted((folder / "recordings").glob("*.mcap")):
        header = read_header(path)
        messages = list(Recording(header).messages())
        told = min(message.log_ns for message in messages if message.role == "task")  # later if it was heard meanwhile
        first, last = max(messages[0].log_ns + 500_000_000, told), messages[-1].log_ns
        seen = [tick for tick in live if first < tick["time_ns"] < last]
        arrivals = {(key, stamp): when for key, stamp, when in reversed(list(_arrivals(messages)))}  # the first of each
        check_what_is_absent({sample for tick in seen for sample in tick["stamps"].items()}, arrivals, path)
        check_pictures(seen, messages)
        for tick, again in zip(seen, replay(header, as_heard(messages, live), seen), strict=True):
            if not again.stamps or not tick["stamps"].items() <= arrivals.keys():
                continue  # before a guard and a task, or with a message that the recorder says it lost
            assert tick["stamps"] == again.stamps
            compared += 1
            if again.observation is not None:  # the guard commanded something for the end of the step
                whole += 1
                check_observation(tick, again.observation)
        for tick, again in zip(seen, replay(header, messages, seen), strict=True):
            same += tick["stamps"] == again.stamps
            for key, stamp in tick["stamps"].items() if again.stamps else ():
                newer = max(stamp, again.stamps.get(key, 0.0))
                arrival = arrivals.get((key, newer))
                if arrival is None:
                    continue
                # Whichever process the machine did not run heard of the message that much later: the recorder by the
                # message's age on arrival, the other one by its own tick and by the age of its newest joint state
                behind = tick["time_ns"] - round(tick["stamps"][OBS_STATE] * 1e9)
                paused = tick["late_ns"] + behind + max(0, arrival - round(newer * 1e9))
                assert stamp == again.stamps.get(key) or abs(tick["time_ns"] - arrival) < RACE_NS + paused
    print(f"\n{compared} ticks are the same, {whole} with a command; in {same} no message raced with the tick")
    assert compared > 20
    assert whole > compared / 4


def replay(header: RecordingHeader, messages: list[RecordedMessage], seen: list[dict]) -> list[Tick]:
    """The recording at the times of what was seen live."""
    times = [tick["time_ns"] for tick in seen]
    return list(ticks(header, messages, TickSettings(states=EVERY_STATE), times_ns=times))


def as_heard(messages: list[RecordedMessage], live: list[dict]) -> list[RecordedMessage]:
    """The recorded messages as if they had arrived when the live process heard of them, before the same ticks.

    Whether a message comes before a tick or after it is otherwise a race between two processes.
    """
    order = [(tuple(sample), tick["time_ns"]) for tick in live for sample in tick["heard"]]
    heard: dict[tuple[str, float], tuple[int, int]] = {}
    for place, (sample, time_ns) in enumerate(order):
        heard.setdefault(sample, (time_ns, place))  # a stamp that comes again brings nothing new
    placed = []
    for number, message in enumerate(messages):
        sample = _sample(message)
        if sample is None:
            placed.append((message.log_ns, number, message))
        elif sample in heard:
            time_ns, place = heard[sample]
            placed.append((time_ns, place, dataclasses.replace(message, log_ns=time_ns)))
    return [message for _, _, message in sorted(placed, key=lambda entry: entry[:2])]


def check_pictures(seen: list[dict], messages: list[RecordedMessage]) -> None:
    """Every picture that was seen live is in the recording bit for bit, where it is there at all."""
    pictures = {
        _sample(message): hashlib.sha256(rgb_from_image(message.message).tobytes()).hexdigest()
        for message in messages
        if message.role.startswith("image/")
    }
    for tick in seen:
        for name, digest in tick["images"].items():
            key = image_key(name)
            assert pictures.get((key, tick["stamps"][key]), digest) == digest


def check_observation(tick: dict, again: Observation) -> None:
    """What was seen live at a tick is what the recording gives for it, in every stream."""
    assert tick["task"] == again.task
    np.testing.assert_array_equal(np.float32(tick["proprio"]), again.proprio)
    assert tick["images"] == {name: hashlib.sha256(image.tobytes()).hexdigest() for name, image in again.images.items()}


def check_what_is_absent(
    seen: set[tuple[str, float]], arrivals: Mapping[tuple[str, float], int], recording: Path
) -> None:
    """Everything seen live is recorded, but for what the recorder says it lost or had not heard of when it stopped."""
    streams = json.loads(recording.with_suffix(".json").read_text())["streams"]
    newest: dict[str, float] = {}
    for key, stamp in arrivals:
        newest[key] = max(stamp, newest.get(key, 0.0))
    for key, last in newest.items():
        role = "state" if key == OBS_STATE else f"image/{key.rpartition('.')[2]}"
        absent = [stamp for other, stamp in seen - arrivals.keys() if other == key and stamp < last]
        assert len(absent) <= streams[role]["lost"], (key, absent)


def _arrivals(messages: list[RecordedMessage]) -> Iterator[tuple[str, float, int]]:
    """Stream, stamp [s] and arrival [ns] of what is aligned."""
    for message in messages:
        sample = _sample(message)
        if sample is not None:
            yield *sample, message.log_ns


def _sample(message: RecordedMessage) -> tuple[str, float] | None:
    """Stream and stamp [s] of a message that is aligned, None for another one."""
    kind, _, camera = message.role.partition("/")
    if kind not in ("image", "state"):
        return None
    return image_key(camera) if kind == "image" else OBS_STATE, stamp_seconds(message.message.header.stamp)


def test_the_recording_becomes_a_dataset_that_trains(session, tmp_path, capsys):
    folder, _ = session
    config = ConvertConfig(
        recordings=(folder / "recordings",), out=tmp_path / "dataset", source="teleop", min_seconds=0.4
    )
    result = convert(config)
    summary = check_dataset(result.out, ROBOT)
    assert summary.episodes >= 2
    assert all(file.frames >= 8 for file in result.files), [file.to_dict() for file in result.files]
    assert any("the guard was in HOLD" in file.dropped for file in result.files)
    episodes = load_episodes(result.out, ROBOT, (96, 96), cache=tmp_path / "frames")
    wanted = np.load(folder / "targets.npz")["action"]
    # What was commanded is the expert's path, but for the way to its beginning; what was measured follows it.
    distance = np.abs(episodes.action[:, None, :6] - wanted[None, :, :6]).max(axis=2).min(axis=1)  # (M,)
    assert np.median(distance) < 0.05
    lag = np.abs(episodes.action - episodes.proprio)[:, :6].max(axis=1)  # (M,)
    assert np.quantile(lag, 0.8) < 0.2
    assert lag.max() < 0.45  # a recorder that was not run keeps the joints of before, 0.3 s at the most
    assert episodes.frames.std() > 10
    run = tmp_path / "run"
    options = "--preset micro --steps 4 --batch-size 4 --validate-every 2 --save-every 4 --warmup-steps 1 --device cpu"
    assert cli.main(["train", "--dataset", str(result.out), "--out", str(run), *options.split()]) == 0
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [value for line in metrics for name, value in line.items() if "loss" in name]
    assert losses
    assert np.isfinite(losses).all()
