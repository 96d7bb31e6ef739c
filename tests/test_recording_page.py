"""docs/recording.md, "In short": each line is what launch file and commands take, and names LeRobot's own folders."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from ros_nodes.launch_plan import declared_arguments, plan
from sim.convert_config import ConvertConfig
from wam.train_config import TrainConfig

CALIBRATION = "~/.cache/huggingface/lerobot/calibration"


def blocks(repository: Path) -> list[list[str]]:
    """The commands of the section's blocks, without what they say about themselves."""
    section = (repository / "docs/recording.md").read_text().split("\n## ")[1]
    found = re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return [[line.split("  #")[0].strip() for line in text.replace("\\\n", " ").splitlines()] for text in found]


def nodes(repository: Path, words: list[str]) -> dict[str, dict[str, Any]]:
    """Node -> parameters that the launch file gives it for these arguments."""
    path = repository / "launch/teleop_record.launch.xml"
    given = dict(word.split(":=", 1) for word in words)
    assert set(given) <= {argument.name for argument in declared_arguments(path, {})}
    found: dict[str, dict[str, Any]] = {}
    for process in plan(path, given, {}):
        merged = found.setdefault(process.label.rsplit("-", 1)[0], {})
        for text in (getattr(word, "text", "") for word in process.arguments):
            for entry in (yaml.safe_load(text) or {}).values():
                merged |= entry["ros__parameters"]
    return found


def check_the_rest(convert: str, train: str) -> tuple[ConvertConfig, TrainConfig]:
    """The last two lines are read by the commands, and the first writes what the second reads."""
    converting = tyro.cli(ConvertConfig, args=shlex.split(convert)[2:])
    training = tyro.cli(TrainConfig, args=shlex.split(train)[2:])
    assert training.dataset == (converting.out,)
    return converting, training


def test_a_real_arm(repository: Path) -> None:
    export, joy, launch, start, engage, stop, convert, train = blocks(repository)[0]
    assert (export, joy) == (f"export CALIBRATION={CALIBRATION}", "ros2 run joy joy_node")
    program, *words = shlex.split(launch)
    assert [program, *words[:3]] == ["ros2", "launch", "world_action_model", "teleop_record.launch.xml"]
    started = nodes(repository, words[3:])
    assert set(started) == {"recorder", "arm", "camera", "guard", "teleop"}
    assert started["arm"]["so101_calibration"] == "$CALIBRATION/robots/so_follower/arm.json"
    assert started["arm"]["backend"] == "so101"
    assert started["teleop"]["leader_calibration"] == "$CALIBRATION/teleoperators/so_leader/hand.json"
    assert (started["teleop"]["source"], started["teleop"]["dead_man"]) == ("leader", "joy")
    assert (start, engage, stop) == ("wam call recorder/start", "wam call guard/engage", "wam call recorder/stop")
    converting, _ = check_the_rest(convert, train)
    assert converting.recordings == (Path(started["recorder"]["folder"]),)


def test_the_simulated_arm(repository: Path) -> None:
    launch, keyboard, start, engage, stop, convert, train = blocks(repository)[1]
    program, verb, name, *words = shlex.split(launch)
    assert (program, verb, name) == ("wam", "up", "teleop_record")
    started = nodes(repository, words)
    assert set(started) == {"recorder", "arm", "guard"}  # nothing that needs hardware
    assert started["arm"]["backend"] == "mujoco"
    assert keyboard == "python -m ros_nodes.teleop_node --ros-args -p robot:=sim6 -p source:=keyboard"
    assert (start, engage, stop) == ("wam call recorder/start", "wam call guard/engage", "wam call recorder/stop")
    converting, _ = check_the_rest(convert, train)
    assert converting.recordings == (Path(started["recorder"]["folder"]),)


@pytest.mark.slow  # lerobot takes seconds to import
def test_calibrations_lie_where_lerobot_writes_them() -> None:
    from lerobot.robots.so_follower import SO101Follower
    from lerobot.teleoperators.so_leader import SO101Leader
    from lerobot.utils.constants import ROBOTS, TELEOPERATORS

    assert f"{ROBOTS}/{SO101Follower.name}" == "robots/so_follower"
    assert f"{TELEOPERATORS}/{SO101Leader.name}" == "teleoperators/so_leader"
