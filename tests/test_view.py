"""`wam view` on a real dataset: a film, a plot, numbers by horizon, and nothing leaks from what happened."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from sim.view import ViewConfig, main, run_view
from wam.errors import ConfigError
from wam.robot import load_robot
from wam.untrained import save_untrained_checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view") / "run"
    checkpoint = save_untrained_checkpoint(folder, load_robot("sim6"), preset_name="micro")
    description = checkpoint.path / "checkpoint.json"  # a nearer future, so that short episodes hold two horizons
    data = json.loads(description.read_text())
    data["model"]["future_offset"] = 4
    description.write_text(json.dumps(data))
    return folder


@pytest.mark.parametrize("question", ["policy", "forward"])
def test_film_plot_and_numbers_by_horizon(run: Path, reach_dataset: Path, tmp_path: Path, question: str, capsys):
    arguments = ["--checkpoint", str(run), "--dataset", str(reach_dataset), "--out", str(tmp_path), "--horizons", "2"]
    arguments += ["--question", question, "--starts", "3", "--sampling.n-steps", "2", "--sampling.step-cache"]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["horizon_s"] == pytest.approx([0.4, 0.8])
    for curves in results["metrics"].values():
        assert all(np.isfinite(row["mean"]) for rows in curves.values() for row in rows)
        assert curves["nothing moves"][0]["mean"] > curves["imagined"][0]["mean"]  # random weights imagine nothing
    with av.open(str(tmp_path / "film.mp4")) as film:
        stream = film.streams.video[0]
        assert stream.frames > 5
        assert stream.height % 2 == stream.width % 2 == 0
    assert (tmp_path / "horizons.png").stat().st_size > 5000
    assert "film.mp4" in capsys.readouterr().out


def test_a_seed_repeats_and_another_does_not(run: Path, reach_dataset: Path, tmp_path: Path):
    def means(seed: int) -> list[float]:
        config = ViewConfig(checkpoint=run, dataset=reach_dataset, out=tmp_path, starts=2, horizons=1, seed=seed)
        return [row["mean"] for row in run_view(config)["metrics"]["psnr"]["imagined"]]

    assert means(0) == means(0)
    assert means(0) != means(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "plicy"}, r"unknown question 'plicy' \(did you mean 'policy'\?\)"),
        ({"horizons": 0}, "horizons is 0 but must be at least 1"),
        ({"horizons": 1000}, "longer than 4000 steps: choose fewer --horizons"),
        ({"episode": 99}, "episode 99 is not in"),
    ],
)
def test_impossible_requests(run: Path, reach_dataset: Path, tmp_path: Path, options: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        run_view(ViewConfig(checkpoint=run, dataset=reach_dataset, out=tmp_path, **options))


def test_a_model_that_looks_back_imagines_from_recorded_instants(reach_dataset: Path, tmp_path: Path):
    robot = load_robot("sim6")
    save_untrained_checkpoint(tmp_path / "run", robot, preset_name="micro", n_obs_steps=2, future_offset=4)
    options = {"checkpoint": tmp_path / "run", "dataset": reach_dataset, "out": tmp_path / "view", "starts": 2}
    results = run_view(ViewConfig(question="forward", horizons=1, **options))
    assert np.isfinite(results["metrics"]["psnr"]["imagined"][0]["mean"])
    with pytest.raises(ConfigError, match="looks back on 2 instants.*Give --horizons 1"):
        run_view(ViewConfig(horizons=2, **options))
