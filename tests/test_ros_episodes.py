"""Simulated episodes on real processes: arm, guard and policy, conducted from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
pytest.importorskip("rclpy")

from ros_nodes.episodes import EpisodesConfig  # noqa: E402
from tests.ros_fakes import AGES_OF_A_BUSY_MACHINE  # noqa: E402
from tests.ros_graph import REPOSITORY, Graph  # noqa: E402
from tests.test_ros_policy import brave_robot, untrained_bundle  # noqa: E402
from wam.errors import ConfigError  # noqa: E402
from wam.robot import load_robot  # noqa: E402


def conduct(graph: Graph, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ros_nodes.episodes", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=graph.environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_episodes_run_one_after_the_other_and_are_timed(tmp_path: Path) -> None:
    # Random weights may lean on the table
    robot = brave_robot(tmp_path / "robots", tracking_error=10.0, **AGES_OF_A_BUSY_MACHINE)
    bundle = untrained_bundle(tmp_path, load_robot(robot))
    out = tmp_path / "episodes.json"
    with Graph(tmp_path) as graph:
        graph.start("arm", f"robot:={robot}", "task:=reach", "first_seed:=3", "announce_task:=true")
        graph.start("guard", f"robot:={robot}")
        graph.start("policy", f"robot:={robot}", f"bundle:={bundle}")
        done = conduct(
            graph,
            "--episodes",
            "2",
            "--timeout-s",
            "2",
            "--patience-s",
            "120",
            "--robot",
            str(robot),
            "--out",
            str(out),
        )
        assert not graph._dead()
    assert done.returncode == 0, done.stderr
    results = json.loads(out.read_text())
    episodes = results["episodes"]
    assert len(episodes) == 2
    assert [episode["seed"] for episode in episodes] == [4, 5]  # the arm began with 3, and was asked for the next
    for episode in episodes:
        assert episode["outcome"] in {"timeout", "success"}, episode  # what random weights do, but never a fault
        assert episode["outcome"] == "success" or episode["seconds"] >= 2
        assert episode["instruction"].startswith("reach")
    assert results["percentiles"]["observation_to_command_ms"]["p50"] > 0
    assert results["counts"]["chunks"] > 5
    assert (tmp_path / "episodes.png").stat().st_size > 1000
    assert "of 2 episodes solved" in done.stdout


def test_a_graph_without_an_arm_is_one_clear_error(tmp_path: Path) -> None:
    with Graph(tmp_path) as graph:
        done = conduct(graph, "--patience-s", "0.5", "--out", str(tmp_path / "x.json"))
    assert done.returncode == 2
    assert "a simulated arm publishes arm/episode" in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path).count("x.json") == 0


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        EpisodesConfig(out=Path("x.json"), episodes=0)
