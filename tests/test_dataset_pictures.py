"""Recorded pictures beside the robot file's cameras, and a fit from the robot file to the robot."""

import dataclasses
import logging
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from policy.runner import Policy
from tests.small_datasets import ROBOT, write_dataset
from tests.test_policy_runner import FakeBackend, make_manifest, make_observation
from wam.checkpoint import describe_checkpoint
from wam.dataset import load_episodes
from wam.dataset_check import check_dataset, check_numbers
from wam.dataset_meta import DatasetMeta, EpisodeMeta, write_meta
from wam.dataset_names import ReadAs
from wam.errors import BundleError, CheckpointError, ConfigError, DatasetError, RobotSpecError
from wam.manifest import Manifest
from wam.normalise import Normaliser
from wam.picture_fit import FITS, fit_picture
from wam.robot import RobotSpec, load_robot
from wam.robot_identity import behaviour_hash, data_differences, differences
from wam.spec import image_key
from wam.train import train
from wam.train_config import TrainConfig
from wam.training_data import prepare
from wam.transforms import Transforms

FILM = f"videos/{image_key('front')}/chunk-000/file-000.mp4"


def robot(fit: str = "crop", size_px: tuple[int, int] = (64, 48)) -> RobotSpec:
    """sim6 whose front camera gives other pictures."""
    front = dataclasses.replace(ROBOT.cameras[0], width_px=size_px[0], height_px=size_px[1], fit=fit)
    return dataclasses.replace(ROBOT, cameras=(front, ROBOT.cameras[1]))


def robot_file(folder: Path, spec: RobotSpec) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "sim6.yaml"
    path.write_text(yaml.safe_dump(spec.to_dict()))
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A dataset whose front camera gave 64 x 48 px, a ramp of red from left to right."""
    root = write_dataset(tmp_path_factory.mktemp("recorded") / "dataset", sizes_px=((64, 48), (96, 96)))
    ramp = np.zeros((48, 64, 3), np.uint8)
    ramp[:, :, 0] = np.arange(64) * 4
    with av.open(str(root / FILM), "w") as film:
        stream = film.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv444p"
        for _ in range(80):
            film.mux(stream.encode(av.VideoFrame.from_ndarray(ramp, format="rgb24")))
        film.mux(stream.encode())
    return root


def test_another_aspect_is_refused_with_the_lines_to_type(recorded):
    with pytest.raises(DatasetError) as caught:
        check_numbers([recorded], ROBOT)
    for words in (
        "'observation.images.front' is 64x48 px but camera 'front' of robot 'sim6' gives 96x96, another aspect",
        "write width_px: 64 and height_px: 48 for it into the robot file",
        "--keys observation.images.front=ITS_NAME",
        "with --any-aspect",
    ):
        assert words in str(caught.value)
    assert "wrist" not in str(caught.value)
    check_dataset(recorded, robot())


def test_both_cameras_are_said_at_once_and_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr("wam.films.frames_at", None)
    root = write_dataset(tmp_path / "dataset", sizes_px=((64, 48), (48, 64)))
    with pytest.raises(DatasetError, match=r"(?s)there are 2 reasons.*front' is 64x48 px.*wrist' is 48x64 px"):
        load_episodes(root, ROBOT, (32, 32), cache=tmp_path / "frames.u8")


def test_an_aspect_that_is_meant_so_is_taken_and_said(recorded, tmp_path):
    summary = check_dataset(recorded, ROBOT, ReadAs(any_aspect=True))
    assert any("is 64x48 px" in note and "gives 96x96: another view" in note for note in summary.notes)
    with pytest.raises(DatasetError, match="another aspect"):
        load_episodes(recorded, ROBOT, (32, 32), cache=tmp_path / "a.u8")
    told = ReadAs(any_aspect=True)
    assert len(load_episodes(recorded, ROBOT, (32, 32), cache=tmp_path / "a.u8", read_as=told).frames) == 80


@pytest.mark.parametrize(("size_px", "word"), [((128, 96), "less sharp"), ((32, 24), "sharper")])
def test_another_size_of_the_same_aspect_is_said(recorded, size_px, word):
    (note,) = check_dataset(recorded, robot(size_px=size_px)).notes
    assert f"gives {size_px[0]}x{size_px[1]}: the same view, {word} than on the robot" in note


def test_what_we_recorded_is_held_to_the_same_rule(recorded, tmp_path):
    root = write_dataset(tmp_path / "dataset", sizes_px=((64, 48), (96, 96)))
    episodes = tuple(EpisodeMeta(seed=i, success=True, steps=n, noise=0.0) for i, n in enumerate((30, 25, 25)))
    write_meta(root, DatasetMeta(robot=robot(), task="lift", episodes=episodes))
    assert check_dataset(root, robot("pad")).notes == (), "a fit is of the policy, recorded pictures have none"
    with pytest.raises(DatasetError, match=r"is 64x48 px but camera 'front' of robot 'sim6' gives 96x96"):
        check_dataset(root, ROBOT)


def test_pictures_without_colours_are_said(recorded, monkeypatch):
    from wam import dataset_pictures

    read = dataset_pictures.read_header
    monkeypatch.setattr(dataset_pictures, "read_header", lambda path: dataclasses.replace(read(path), colours=False))
    notes = check_dataset(recorded, robot()).notes
    assert [note for note in notes if "'observation.images.front' has no colours" in note]


def config(recorded: Path, out: Path, spec: RobotSpec) -> TrainConfig:
    options = {"preset": "micro", "steps": 2, "batch_size": 4, "save_every": 1, "validate_every": 2, "threads": 1}
    return TrainConfig(dataset=(recorded,), out=out, robot=str(robot_file(out.parent / "robots", spec)), **options)


@pytest.mark.parametrize(
    ("fit", "words", "edges"),
    [
        ("crop", "cuts off 8 px of its pictures on each side, left and right", (8, 55)),
        ("pad", "adds 4 black px of the model's on each side, top and bottom", (0, 63)),
        ("stretch", "1.33 times narrower than they are", (0, 63)),
    ],
)
def test_training_says_what_a_fit_does_and_does_it(recorded, tmp_path, caplog, fit, words, edges):
    with caplog.at_level(logging.WARNING):
        data = prepare(config(recorded, tmp_path / "run", robot(fit)))
    assert [record.getMessage() for record in caplog.records if words in record.getMessage()]
    assert data.transforms.fit("front") == fit
    shown = data.episodes.frames[0, 0, 16, :, 0].astype(float)  # a row of red, from one edge of the ramp to the other
    assert shown[[0, -1]] == pytest.approx([4 * edge for edge in edges], abs=6)
    assert bool(data.episodes.frames[0, 0, 1, 16, 0]) == (fit != "pad")


def test_a_square_camera_is_not_worth_a_word(tmp_path, caplog):
    root = write_dataset(tmp_path / "dataset")
    with caplog.at_level(logging.WARNING):
        prepare(config(root, tmp_path / "run", ROBOT))
    assert "fit" not in caplog.text


def test_a_run_goes_on_with_the_fit_and_the_data_it_was_begun_with(recorded, tmp_path):
    assert train(config(recorded, tmp_path / "run", robot("pad"))) == 0
    info = describe_checkpoint(tmp_path / "run", robot=robot("pad"))
    assert (info.transforms.fit("front"), info.transforms.fit("wrist")) == ("pad", "crop")
    assert train(config(recorded, tmp_path / "run", robot("pad"))) == 0
    with pytest.raises(ConfigError, match=r"begun otherwise \(fit \(front pad, wrist crop and crop\)\).*another --out"):
        train(config(recorded, tmp_path / "run", robot("crop")))
    with pytest.raises(CheckpointError, match="differ in fit"):
        describe_checkpoint(tmp_path / "run", robot=robot("stretch"))
    other = write_dataset(tmp_path / "other", sizes_px=((64, 48), (96, 96)))
    moved = tmp_path / "moved"
    shutil.copytree(recorded, moved)
    assert train(config(moved, tmp_path / "again", robot())) == 0
    shutil.rmtree(moved)
    other.rename(moved)
    with pytest.raises(ConfigError, match=r"dataset \S+moved holds other data now"):
        train(config(moved, tmp_path / "again", robot()))


def test_the_policy_sees_on_the_robot_what_it_saw_in_training(recorded, tmp_path):
    axes = Normaliser(offset=(0.1,) * ROBOT.action_dim, scale=(0.5,) * ROBOT.action_dim)
    camera = load_episodes(recorded, robot(), (48, 64), cache=tmp_path / "raw.u8").frames[0, 0]  # as recorded
    for fit in FITS:
        spec = robot(fit)
        seen = Transforms(image_size_px=(32, 32), proprio=axes, action=axes, image_fit={"front": fit})
        plain = dataclasses.replace(make_manifest(), robot=spec, robot_fingerprint=spec.fingerprint(), transforms=seen)
        manifest = Manifest.from_dict(plain.to_dict() | {"graphs": _graphs(plain)})
        backend = FakeBackend()
        observation = make_observation()
        images = dict(observation.images) | {"front": np.array(camera)}
        Policy(manifest, backend).infer(dataclasses.replace(observation, images=images))
        trained = load_episodes(recorded, spec, (32, 32), cache=tmp_path / f"{fit}.u8").frames[0, 0]
        assert np.array_equal(backend.images[0], trained), fit
        assert np.array_equal(trained, fit_picture(np.array(camera), (32, 32), fit))


def _graphs(manifest: Manifest) -> dict:
    return {name: {"file": graph.file, "inputs": [], "outputs": []} for name, graph in manifest.graphs.items()}


def test_a_bundle_holds_one_fit_and_runs_on_a_robot_with_that_one():
    spec = robot("pad")
    axes = Normaliser(offset=(0.1,) * ROBOT.action_dim, scale=(0.5,) * ROBOT.action_dim)
    seen = Transforms(image_size_px=(32, 32), proprio=axes, action=axes, image_fit={"front": "pad", "wrist": "crop"})
    manifest = dataclasses.replace(make_manifest(), robot=spec, robot_fingerprint=spec.fingerprint(), transforms=seen)
    assert Manifest.from_dict(manifest.to_dict()).transforms == seen
    manifest.check_robot(spec)
    with pytest.raises(BundleError, match=r"they differ in fit \(front pad, wrist crop and crop\)"):
        manifest.check_robot(robot("crop"))
    data = manifest.to_dict()
    data["transforms"]["image_fit"] = {}
    with pytest.raises(BundleError, match=r"image_fit is \['crop', 'crop'\] but the cameras' fit in robot is \['pad'"):
        Manifest.from_dict(data)
    data["transforms"]["image_fit"] = {"front": "padd"}
    with pytest.raises(BundleError, match=r"unknown fit 'padd' \(did you mean 'pad'\?\)"):
        Manifest.from_dict(data)


def test_what_was_made_before_fits_opens_as_crop():
    manifest = make_manifest()
    data = manifest.to_dict()
    del data["transforms"]["image_fit"]
    for camera in data["robot"]["cameras"]:
        del camera["fit"]
    old = Manifest.from_dict(data)
    assert {camera.fit for camera in old.robot.cameras} == {"crop"}
    assert old.transforms.fit("front") == "crop"
    old.check_robot(load_robot("sim6"))
    # Taken from the version before: hashes of all that exists depend on it
    assert load_robot("sim6").fingerprint().startswith("b8d6725b56e96169")
    assert behaviour_hash(load_robot("sim6").to_dict()).startswith("cc8d1ea36563e325")


def test_a_fit_is_part_of_what_a_policy_was_trained_for_and_of_nothing_else():
    plain, padded = robot("crop"), robot("pad")
    assert plain.fingerprint() != padded.fingerprint()
    assert differences(plain.to_dict(), padded.to_dict()) == ["fit (crop and front pad, wrist crop)"]
    assert data_differences(plain.to_dict(), padded.to_dict()) == []
    assert behaviour_hash(plain.to_dict()) == behaviour_hash(padded.to_dict())
    assert behaviour_hash(plain.to_dict(), with_fit=True) != behaviour_hash(padded.to_dict(), with_fit=True)
    assert behaviour_hash(plain.to_dict(), with_fit=True) == behaviour_hash(plain.to_dict())


@pytest.mark.parametrize("fit", ["padd", "", None, 3, ["pad"]])
def test_an_unknown_fit_names_the_choices(fit):
    data = robot().to_dict()
    data["cameras"][0]["fit"] = fit
    with pytest.raises(RobotSpecError, match="fit"):
        RobotSpec.from_dict(data)
