"""Simulated episodes through the real graph, as ``wam demo`` ends: arm, guard and policy as processes of their own."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
pytest.importorskip("rclpy")

from ros_nodes.bench import untrained  # noqa: E402
from ros_nodes.closed_loop import main  # noqa: E402
from tests.ros_fakes import AGES_OF_A_BUSY_MACHINE, robot_file_with  # noqa: E402
from tests.ros_graph import least_chunk_rate_hz  # noqa: E402


@pytest.mark.slow  # a graph with a network in it and two episodes in real time: about a minute
def test_episodes_run_through_the_real_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    robot, bundle = untrained(tmp_path, str(robot_file_with(tmp_path / "robot", **AGES_OF_A_BUSY_MACHINE)))
    out = tmp_path / "out"
    arguments = ["--bundle", str(bundle), "--robot", robot, "--task", "reach", "--out", str(out)]
    assert main([*arguments, "--episodes", "2", "--first-seed", "1900000"]) == 0
    assert "of 2 episodes solved through ROS, at wall-clock time" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    assert (results["episodes"], len(results["records"])) == (2, 2)
    assert 0 <= results["successes"] <= 2
    first, second = (record["seed"] for record in results["records"])
    assert 1_900_000 <= first < second
    assert results["numbers"]["chunk_rate_hz"] > least_chunk_rate_hz(results)
    assert all(results["samples"][name] for name in ("policy_deviation_ms", "guard_late_ms", "image_age_p95_ms"))
    log = (out / "nodes.log").read_text()
    assert "[up] arm-1 ended with status 0" in log


def test_a_bundle_that_cannot_run_is_refused_before_anything_starts(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert main(["--bundle", str(tmp_path / "none"), "--out", str(out)]) == 2
    assert "closed_loop: " in capsys.readouterr().err
    assert not out.exists()


def test_at_least_one_episode(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--bundle", str(tmp_path), "--episodes", "0"]) == 2
    assert "episodes is 0 and first_seed 0: at least 1 and 0" in capsys.readouterr().err
