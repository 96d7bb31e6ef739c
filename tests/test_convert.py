"""Recordings → dataset: what a policy would have seen, what was commanded, and what is refused or dropped."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mcap_ros2")

from sim import convert as command
from sim.conversion import convert
from sim.convert_config import ConvertConfig
from sim.errors import SimError
from sim.recordings import Recording, read_header
from sim.ticks import TickSettings, ticks
from tests import wire_messages as wire
from tests.recorded_scenes import IMAGE_DELAY_MS, MS, ROBOT, START, Event, picture, replay, scene, stamp_ns, write
from wam.dataset import load_episodes
from wam.dataset_check import check_dataset
from wam.errors import ConfigError, DatasetError
from wam.robot import RobotSpec, robot_file

# The recorded joint turns on and on, which no training would take for a position of sim6
TURNING = dataclasses.replace(ROBOT.joints[0], position=(-9.0, 9.0))
WIDE = dataclasses.replace(ROBOT, joints=(TURNING, *ROBOT.joints[1:]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two recordings of three and two seconds; the camera of the second one is silent for half a second."""
    folder = tmp_path_factory.mktemp("recordings")
    write(folder / "episode_000000.mcap", scene(3.0))
    silent = [e for e in scene(5.0, task="nod") if not (e.role == "image/wrist" and 2000 < e.at_ms < 2500)]
    write(folder / "episode_000001.mcap", silent)
    return folder


@pytest.fixture(scope="module")
def converted(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("dataset") / "waves"
    return convert(ConvertConfig(recordings=(folder,), out=out))


def test_a_tick_sees_what_had_arrived_and_gets_the_command_at_its_end(folder):
    found = [tick for tick in replay(folder / "episode_000000.mcap") if not tick.reason]
    assert len(found) == 28  # 3 s at 10 Hz, less the ends
    for tick in found:
        t_ms = (tick.time_ns - stamp_ns(0)) / MS
        frame = int((t_ms - IMAGE_DELAY_MS) * 30 / 1000 + 1e-6)
        assert tick.stamps["observation.images.front"] == pytest.approx(START + frame / 30, abs=1e-6)
        assert (tick.observation.images["front"] == picture(frame)).all()
        assert tick.observation.proprio[0] == pytest.approx(np.floor((t_ms - 1) / 10) / 100, abs=1e-6)
        assert tick.observation.task == "wave"
        # Commands are a ramp of one rad per second, so the action of t is the end of its step, t + 0.1 s.
        assert tick.action[0] == pytest.approx(t_ms / 1e3 + 0.1, abs=1e-6)


def test_reach_steps_of_zero_gives_the_command_at_the_tick_itself(folder):
    found = [tick for tick in replay(folder / "episode_000000.mcap", reach_steps=0.0) if not tick.reason]
    assert found[3].action[0] == pytest.approx((found[3].time_ns - stamp_ns(0)) / MS / 1e3, abs=1e-6)


@settings(max_examples=5)  # each replays three seconds twice
@given(seed=st.integers(0, 1000))
def test_out_of_order_arrivals_are_put_right(folder, seed):
    header = read_header(folder / "episode_000000.mcap")
    messages = list(Recording(header).messages())
    order = np.random.default_rng(seed)
    shuffled = sorted(messages, key=lambda message: message.log_ns + order.uniform(0, 200) * MS)
    expected = list(ticks(header, messages, TickSettings()))
    found = list(ticks(header, shuffled, TickSettings()))
    assert [(tick.time_ns, tick.stamps, tick.reason) for tick in found] == [
        (tick.time_ns, tick.stamps, tick.reason) for tick in expected
    ]


def test_ticks_without_a_person_are_dropped_with_the_reason(tmp_path):
    events = scene(1.0, guard="HOLD")
    path = write(tmp_path / "episode_000000.mcap", events)
    assert {tick.category for tick in replay(path)} == {"the guard was silent", "the guard was in HOLD"}
    path = write(tmp_path / "episode_000001.mcap", scene(1.0, guard="RUN_POLICY"))
    assert [t for t in replay(path, states=("RUN_TELEOP",)) if not t.reason] == []
    assert [t for t in replay(path) if not t.reason]


def test_reasons_are_counted_without_their_numbers(tmp_path):
    path = write(tmp_path / "episode_000000.mcap", scene(1.0, images=False))
    assert {tick.category for tick in replay(path)} >= {
        "observation.images.front has not arrived yet; observation.images.wrist has not arrived yet"
    }


def test_messages_that_break_their_contract_say_so(tmp_path):
    events = [
        Event(e.at_ms, e.role, wire.joint_state(stamp_ns(0), ["elbow"], [0.0])) if e.role == "state" else e
        for e in scene(1.0)
    ]
    reasons = [tick.reason for tick in replay(write(tmp_path / "episode_000000.mcap", events))]
    assert any("lacks yaw, shoulder, forearm_roll" in reason for reason in reasons)


def test_a_pause_between_commands_is_not_commanded(tmp_path):
    events = [e for e in scene(2.0) if not (e.role == "command" and 800 < e.at_ms < 1100)]
    found = replay(write(tmp_path / "episode_000000.mcap", events))
    dropped = [tick for tick in found if tick.category == "nothing was commanded for more than … s"]
    assert [round((tick.time_ns - stamp_ns(0)) / MS, -2) for tick in dropped] == [700.0, 800.0, 900.0, 1000.0]


def test_the_dataset_is_sound_and_holds_the_recorded_frames(converted, tmp_path):
    summary = check_dataset(converted.out, WIDE)
    assert (summary.episodes, converted.frames) == (3, sum(summary.lengths))
    assert [file.episodes for file in converted.files] == [1, 2]
    episodes = load_episodes(converted.out, WIDE, (96, 96), cache=tmp_path / "frames")
    assert episodes.tasks == ("wave", "nod")
    assert np.allclose(episodes.action[:, 0] - episodes.proprio[:, 0], 0.1, atol=0.021)
    shown = (episodes.frames[:, 0].mean(axis=(1, 2, 3)) - 40) / 3
    assert (np.abs(shown - shown.round()) < 0.4).all()
    first = slice(int(episodes.start[0]), int(episodes.length[0]))
    assert (np.diff(shown[first].round()) % 60 == 3).all()  # 30 Hz frames at 10 Hz ticks


def test_a_gap_ends_a_piece_and_is_reported(converted):
    whole, broken = converted.files
    assert broken.frames < broken.ticks
    assert any("observation.images.wrist" in reason for reason in broken.dropped)
    for file in (whole, broken):
        assert file.frames + file.dropped.total() == file.ticks
    text = command.summary(converted)
    assert "robot:    sim6, 10 frames per second" in text
    assert re.search(r"dropped \d+: observation.images.wrist is 0\.1\d\d s old", text)


def test_success_stays_unknown_when_nobody_says(converted):
    data = json.loads((converted.out / "meta/wam.json").read_text())
    assert {episode["success"] for episode in data["episodes"]} == {None}
    assert [recording["file"] for recording in data["settings"]["recordings"]] == [
        "episode_000000.mcap",
        "episode_000001.mcap",
    ]


def test_an_unfinished_file_gives_what_it_holds_and_a_warning(tmp_path, caplog):
    path = write(tmp_path / "in/episode_000000.mcap", scene(3.0), finish=False)
    content = path.read_bytes()
    events = [Event(3000 + e.at_ms, e.role, e.data) for e in scene(1.0)]
    longer = write(tmp_path / "longer/episode_000000.mcap", scene(3.0) + events, finish=False).read_bytes()
    path.write_bytes(content + longer[len(content) : len(content) + 1000])  # the next chunk was cut
    result = convert(ConvertConfig(recordings=(path,), out=tmp_path / "out"))
    assert result.frames == 28
    assert not result.files[0].finished
    assert "was not finished by its recorder" in caplog.text
    assert "episode_000000.partial.mcap, unfinished: 28 of" in command.summary(result)


def other(change: dict[str, Any]) -> tuple[str, RobotSpec]:
    data = {**yaml.safe_load(robot_file("sim6").read_text()), **change}
    return yaml.safe_dump(data), RobotSpec.from_dict(data)


def test_recordings_of_different_robots_do_not_mix(tmp_path):
    write(tmp_path / "episode_000000.mcap", scene(0.2))
    text, robot = other({"name": "sim7"})
    write(tmp_path / "episode_000001.mcap", scene(0.2), robot_text=text, fingerprint=robot.fingerprint())
    with pytest.raises(DatasetError, match=r"do not belong together: they differ in name \(sim6 and sim7\)"):
        convert(ConvertConfig(recordings=(tmp_path,), out=tmp_path / "out"))
    write(tmp_path / "two/episode_000000.mcap", scene(0.2))
    write(tmp_path / "two/episode_000001.mcap", scene(0.2), calibration_hash="abcdef" * 8)
    with pytest.raises(DatasetError, match=r"calibration hash \(none and abcdefabcdef\)"):
        convert(ConvertConfig(recordings=(tmp_path / "two",), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_recordings_in_a_namespace_and_of_older_robot_files_convert_together(tmp_path):
    """The file says what its topics were called; the hash an older recorder stored covered the topics as well."""
    absolute = robot_file("sim6").read_text().replace("_topic: ", "_topic: /").replace("topic: front", "topic: /front")
    assert RobotSpec.from_dict(yaml.safe_load(absolute)).state_topic == "/joint_states"
    write(tmp_path / "episode_000000.mcap", scene(1.5), robot_text=absolute, fingerprint="0" * 64)
    write(tmp_path / "episode_000001.mcap", scene(1.5), namespace="/left")
    write(tmp_path / "episode_000002.mcap", scene(1.5))
    assert "/left/joint_states" in read_header(tmp_path / "episode_000001.mcap").roles
    result = convert(ConvertConfig(recordings=(tmp_path,), out=tmp_path / "out"))
    assert [file.frames for file in result.files] == [result.files[2].frames] * 3
    assert result.episodes == 3


def test_nothing_usable_says_why(tmp_path):
    write(tmp_path / "episode_000000.mcap", scene(0.5))
    with pytest.raises(SimError, match="nothing usable in 1 recordings: 5 ticks, .*piece shorter than 1 s"):
        convert(ConvertConfig(recordings=(tmp_path,), out=tmp_path / "out"))
    write(tmp_path / "b/episode_000000.mcap", scene(1.5, task=""))
    with pytest.raises(SimError, match="no instruction had been given"):
        convert(ConvertConfig(recordings=(tmp_path / "b",), out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("events", "way_out"),
    [
        (scene(0.5), r"--min-seconds 0\.3"),
        (scene(1.5, task=""), '--task "put'),
        (scene(1.5, guard="HOLD"), "wam call guard/engage"),
        ([event for event in scene(1.5) if event.role != "guard"], "with the guard running"),
        ([event for event in scene(1.5) if event.role != "command"], "while the guard commands"),
        # One tick in two has a picture that is too old, so the pieces are short for that reason
        ([event for event in scene(2.5) if not event.role.startswith("image") or event.at_ms % 700 < 350], "wam top"),
    ],
)
def test_nothing_usable_says_what_to_do(tmp_path, events, way_out):
    write(tmp_path / "episode_000000.mcap", events)
    with pytest.raises(SimError, match=f"nothing usable .*{way_out}"):
        convert(ConvertConfig(recordings=(tmp_path,), out=tmp_path / "out"))


def test_the_task_comes_from_the_file_or_the_command_line(tmp_path):
    path = write(tmp_path / "episode_000000.mcap", scene(1.0, task=""), task="stir")
    assert {tick.observation.task for tick in replay(path) if tick.observation} == {"stir"}
    path = write(tmp_path / "episode_000001.mcap", scene(1.0, task="wave"), task="stir")
    assert {tick.observation.task for tick in replay(path, task="cut") if tick.observation} == {"cut"}


def test_a_new_scene_of_a_simulated_arm_is_a_new_episode(tmp_path):
    events = [Event(5, "episode", wire.status("arm/episode", episode="0", success="false"))]
    events += [Event(1400, "episode", wire.status("arm/episode", episode="0", success="true"))]
    events += [Event(1500, "episode", wire.status("arm/episode", episode="1", success="false"))]
    write(tmp_path / "episode_000000.mcap", sorted(scene(3.0) + events, key=lambda event: event.at_ms))
    convert(ConvertConfig(recordings=(tmp_path,), out=tmp_path / "out"))
    data = json.loads((tmp_path / "out/meta/wam.json").read_text())
    assert [(episode["success"], episode["steps"]) for episode in data["episodes"]] == [(True, 14), (False, 14)]


def test_an_existing_dataset_is_never_overwritten(tmp_path, folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(SimError, match="out exists already: choose another --out"):
        convert(ConvertConfig(recordings=(folder,), out=tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "leader"}, "unknown source 'leader'.*teleop"),
        ({"recordings": ()}, "no recording was given"),
        ({"min_seconds": -1.0}, "min_seconds is -1.0"),
        ({"reach_steps": 2.0}, "reach_steps is 2.0"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ConvertConfig(**({"recordings": (Path("x"),), "out": Path("y")} | options))


def test_paths_without_recordings_are_refused(tmp_path):
    for path, message in ((tmp_path, "holds no recording"), (tmp_path / "none", "does not exist")):
        with pytest.raises(SimError, match=message):
            convert(ConvertConfig(recordings=(path,), out=tmp_path / "out"))


def _damaged(path: Path) -> Iterator[tuple[bytes, str]]:
    content = path.read_bytes()
    yield b"not an mcap file at all", "is not an MCAP file"
    yield content[:8], "holds no 'wam.recording' record"
    place = content.index(b"image_raw", len(content) // 2)
    yield content.replace(b"wam.recording", b"wam.recordinG"), "is damaged .*its data has the checksum"
    flipped = bytearray(content)
    flipped[place // 2] ^= 0xFF
    yield bytes(flipped), "is damaged .*crc"


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path / "episode_000000.mcap", scene(1.5))
    for content, message in _damaged(path):
        broken = tmp_path / "broken.mcap"
        broken.write_bytes(content)
        with pytest.raises(DatasetError, match=f"broken.mcap.*{message}"):
            convert(ConvertConfig(recordings=(broken,), out=tmp_path / "out"))


def test_the_command_prints_what_was_dropped(tmp_path, capsys):
    write(tmp_path / "episode_000000.mcap", scene(1.5))
    assert command.main([str(tmp_path), "--out", str(tmp_path / "out"), "--video", "portable"]) == 0
    text = capsys.readouterr().out
    assert "episodes: 1, 13 frames, 1.3 s" in text
    assert "dropped 1: " in text
