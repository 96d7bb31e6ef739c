"""``wam collect``: what is in the dataset, and what it can be asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from sim import collect as command
from sim.arm_sim import ArmSim
from sim.collect_config import CollectConfig, settings_difference
from sim.demonstrations import DemoSettings, record_demonstration
from sim.encoding import CODECS
from sim.errors import SimError
from wam.dataset_meta import read_meta
from wam.errors import ConfigError, RobotSpecError
from wam.robot import load_robot
from wam.spec import ACTION, OBS_STATE, STAMP, TASK, image_key

pytest.importorskip("lerobot")
pq = pytest.importorskip("pyarrow.parquet")

ROBOT = load_robot("sim6")
REACH = ["--task", "reach", "--episodes", "3", "--noise-fraction", "1", "--noise", "0.03"]


def config(out: Path, **changes) -> CollectConfig:
    return CollectConfig(**{"task": "reach", "out": out, "episodes": 3, "workers": 1, **changes})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Three reach episodes, recorded by two spawned processes through the command line."""
    out = tmp_path_factory.mktemp("collect") / "reach"
    assert command.main(["--out", str(out), "--workers", "2", *REACH]) == 0
    return out


def test_dataset_opens_in_lerobot_and_holds_the_demonstrations(dataset):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    opened = LeRobotDataset("local/reach", root=dataset, video_backend="pyav", return_uint8=True)
    settings = DemoSettings(task="reach", robot=ROBOT, noise_fraction=1.0, noise=0.03, distractors=0)
    simulation = ArmSim("reach", ROBOT)
    demos = [record_demonstration(simulation, settings, seed) for seed in range(3)]
    simulation.close()
    assert opened.fps == 10
    assert opened.meta.robot_type == "sim6"
    assert [episode["length"] for episode in opened.meta.episodes] == [len(demo.action) for demo in demos]
    items = iter(opened[i] for i in range(len(opened)))
    for demo in demos:
        for t in range(len(demo.action)):
            item = next(items)
            assert np.array_equal(item[OBS_STATE], demo.proprio[t])
            assert np.array_equal(item[ACTION], demo.action[t])
            assert item[TASK] == demo.instruction
            assert item[STAMP] == pytest.approx(0.1 * t, abs=1e-6)
            for camera in ROBOT.camera_names:
                image = item[image_key(camera)].permute(1, 2, 0).numpy().astype(float)
                assert np.mean((image - demo.images[camera][t]) ** 2) < 4  # 42 dB
    stamp = pq.read_schema(next((dataset / "data").glob("*/*.parquet"))).field(STAMP)
    assert str(stamp.type) == "double"


def test_tables_are_those_that_lerobot_itself_would_write(dataset, tmp_path):
    """The same frames through LeRobot's own writer give the same columns, types, features and statistics."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from sim.recording import dataset_features

    theirs = LeRobotDataset.create(
        "local/x", 10, dataset_features(ROBOT), root=tmp_path / "x", robot_type="sim6", streaming_encoding=True
    )
    ours = LeRobotDataset("local/reach", root=dataset, video_backend="pyav", return_uint8=True)
    for episode in ours.meta.episodes:
        for index in range(episode["dataset_from_index"], episode["dataset_to_index"]):
            item = ours[index]
            frame = {key: item[key].numpy() for key in (OBS_STATE, ACTION)} | {TASK: item[TASK]}
            frame[STAMP] = np.array([item[STAMP]], np.float64)
            frame |= {image_key(c): item[image_key(c)].permute(1, 2, 0).numpy() for c in ROBOT.camera_names}
            theirs.add_frame(frame)
        theirs.save_episode(parallel_encoding=False)
    theirs.finalize()
    our_file, their_file = (next((root / "data").glob("*/*.parquet")) for root in (dataset, tmp_path / "x"))
    assert pq.read_schema(our_file) == pq.read_schema(their_file)
    assert pq.read_table(our_file).drop_columns(STAMP) == pq.read_table(their_file).drop_columns(STAMP)
    our_episodes, their_episodes = (
        pq.read_table(next((root / "meta/episodes").glob("*/*.parquet"))) for root in (dataset, tmp_path / "x")
    )
    assert set(our_episodes.column_names) == set(their_episodes.column_names)
    for name in our_episodes.column_names:
        if not name.startswith("stats/observation.images") and STAMP not in name:
            for mine, lerobots in zip(our_episodes[name].to_pylist(), their_episodes[name].to_pylist(), strict=True):
                assert mine == lerobots or np.allclose(mine, lerobots, atol=1e-6), name
    our_info, their_info = (json.loads((root / "meta/info.json").read_text()) for root in (dataset, tmp_path / "x"))
    for info in (our_info, their_info):
        for feature in info["features"].values():
            feature.pop("info", None)
    assert our_info == their_info
    our_stats, their_stats = (json.loads((root / "meta/stats.json").read_text()) for root in (dataset, tmp_path / "x"))
    for camera in ROBOT.camera_names:
        for name, tolerance in {"min": 0.06, "max": 0.06, "mean": 0.005, "std": 0.005, "q50": 0.02}.items():
            mine, lerobots = (stats[image_key(camera)][name] for stats in (our_stats, their_stats))
            np.testing.assert_allclose(mine, lerobots, atol=tolerance)  # theirs are of decoded frames


@pytest.mark.parametrize("name", sorted(CODECS))
def test_encoder_options_are_those_that_lerobot_writes_into_info(name):
    from lerobot.configs import RGBEncoderConfig

    codec = CODECS[name]
    lerobot = RGBEncoderConfig(
        vcodec=codec.vcodec, pix_fmt=codec.pix_fmt, g=codec.g, crf=codec.crf, preset=codec.preset
    )
    assert codec.options() == lerobot.get_codec_options(encoder_threads=1, as_strings=True)


def test_wam_json_tells_how_it_was_made(dataset):
    meta = read_meta(dataset)
    assert meta.robot == ROBOT
    assert [episode.seed for episode in meta.episodes] == [0, 1, 2]
    assert {episode.noise for episode in meta.episodes} == {0.03}
    assert meta.settings["noise_fraction"] == 1.0
    assert meta.versions["lerobot"] == "0.6.1"
    assert not dataset.with_name("reach.partial").exists()


class Blind(ArmSim):
    """Draws nothing, and keeps what it was told to execute."""

    executed: list

    def render(self, camera):
        return np.zeros((2, 2, 3), np.uint8)

    def step(self, target):
        self.executed.append(np.array(target))
        super().step(target)


def test_label_is_clean_where_the_executed_action_is_not():
    simulation = Blind("reach", ROBOT)
    for noise in (0.0, 0.05):
        settings = DemoSettings(task="reach", robot=ROBOT, noise_fraction=1.0, noise=noise, distractors=0)
        perturbed, first_labels = [], []
        for seed in range(6):  # bursts come and go, so one episode may have none
            simulation.executed = []
            demo = record_demonstration(simulation, settings, seed)
            perturbed.append(np.abs(np.array(simulation.executed) - demo.action).max() > 1e-3)
            first_labels.append(demo.action[0])
            assert demo.noise == noise
        assert any(perturbed) == (noise > 0)
        if noise == 0:
            clean_labels = first_labels
    simulation.close()
    assert np.array_equal(clean_labels, first_labels)  # same scenes, same first labels


def test_share_of_noisy_episodes_is_drawn_from_the_seed():
    settings = DemoSettings(task="reach", robot=ROBOT, noise_fraction=0.5, noise=0.01, distractors=0)
    simulation = Blind("reach", ROBOT)
    simulation.executed = []
    noisy = [record_demonstration(simulation, settings, seed).noise > 0 for seed in range(16)]
    assert 3 <= sum(noisy) <= 13


def test_a_dataset_that_holds_the_hash_of_an_older_version_is_known_by_its_robot(dataset, capsys):
    meta = dataset / "meta/wam.json"
    text = meta.read_text()
    stored = json.loads(text)
    stored["settings"]["robot_fingerprint"] = stored["robot_fingerprint"] = "0" * 64
    stored["robot"]["state_topic"] = "/joint_states"
    try:
        meta.write_text(json.dumps(stored))
        assert command.main(["--out", str(dataset), *REACH]) == 0
        assert "was complete already, with these settings" in capsys.readouterr().out
        stored["robot"]["joints"][0]["max_velocity"] = 1.0  # the expert of that day was slower
        meta.write_text(json.dumps(stored))
        with pytest.raises(SimError, match="other settings.*the robot file has changed"):
            command.main(["--out", str(dataset), *REACH])
    finally:
        meta.write_text(text)


def test_complete_dataset_is_left_alone_and_other_settings_are_explained(dataset, capsys):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    arguments = ["--out", str(dataset), *REACH]
    assert command.main(arguments) == 0
    assert "was complete already, with these settings" in capsys.readouterr().out
    with pytest.raises(SimError, match="other settings.*noise is 0.03 there, 0.01 asked.*choose another --out"):
        command.main([*arguments, "--noise", "0.01"])
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"task": "lft"}, SimError, "unknown task 'lft'.*did you mean 'lift'.*place, push, reach"),
        ({"video": "best"}, SimError, "unknown video codec 'best'; valid names: exact, portable"),
        ({"episodes": 0}, ConfigError, "episodes is 0 but must be at least 1"),
        ({"seed": 99_999}, ConfigError, r"seeds 99999 to 100001.*must stay in \[0, 100000\)"),
        ({"seed": -1}, ConfigError, "kept for validation and test"),
        ({"noise": float("nan")}, ConfigError, "noise is nan rad but must lie in"),
        ({"noise_fraction": 1.5}, ConfigError, r"noise_fraction is 1.5 but must lie in \[0, 1\]"),
        ({"distractors": 9}, ConfigError, "distractors is 9 but must be 0 to 4"),
        ({"workers": -2}, ConfigError, "workers is -2"),
    ],
)
def test_bad_options_are_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        config(tmp_path / "d", **changes)


def test_unknown_robot_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(RobotSpecError, match="unknown robot 'sim7'.*did you mean 'sim6'"):
        command.main(["--robot", "sim7", "--out", str(tmp_path / "d")])
    assert list(tmp_path.iterdir()) == []


def test_settings_differences_read_as_sentences():
    there = {"noise": 0.03, "robot_fingerprint": "a", "seed": 0}
    assert settings_difference(there, there) == []
    assert settings_difference(there, {"noise": 0.0, "robot_fingerprint": "b", "seed": 0}) == [
        "noise is 0.03 there, 0.0 asked",
        "the robot file has changed",
    ]


def test_help_gives_units_and_defaults(capsys):
    with pytest.raises(SystemExit) as info:
        command.main(["--help"])
    assert info.value.code == 0
    text = capsys.readouterr().out
    for words in ("--episodes", "--noise-fraction", "[rad]", "default: 300", "default: sim6", "portable"):
        assert words in text


def test_default_folder_is_named_after_the_task():
    assert CollectConfig(task="reach").folder == Path("datasets/reach")
