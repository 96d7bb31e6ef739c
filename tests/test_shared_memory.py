"""Images between processes: Fast DDS's default loses most of them without a word, our profile none."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ros_nodes.distribution import DISTRIBUTIONS, distribution, profile_environment
from tests.frames import HEIGHT, RATE_HZ, WIDTH

REPOSITORY = Path(__file__).resolve().parent.parent
FRAMES = REPOSITORY / "tests/frames.py"
COUNT = 45
VARIABLES = [known.variable for known in DISTRIBUTIONS.values()]
FRAME_BYTES = 3 * WIDTH * HEIGHT


def received(environment: dict[str, str], *, patience_s: float, stopped: bool = False) -> int:
    """Sends COUNT frames from one process to another, stopped while each is sent or not; returns how many arrived."""
    receiver = subprocess.Popen(
        [sys.executable, str(FRAMES), "receive"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        command = [sys.executable, str(FRAMES), "send", str(COUNT), str(patience_s)]
        command += [str(receiver.pid)] if stopped else []
        subprocess.run(command, env=environment, timeout=600, check=True)
        output, _ = receiver.communicate(timeout=120)
    finally:
        receiver.kill()
    result = json.loads(output)
    assert result["sent"] == COUNT
    return result["received"]


@pytest.mark.ros
def test_the_default_profile_loses_frames_and_ours_does_not(ros_environment: dict[str, str]) -> None:
    plain = {name: value for name, value in ros_environment.items() if name not in VARIABLES}
    assert received(plain | profile_environment(plain), patience_s=30) == COUNT
    # On a machine that runs the receiver at once some arrive. If this fails because everything arrives although it does
    # not run, ROS has become better and the profile is not needed any more.
    assert received(plain, patience_s=0.2, stopped=True) < 0.1 * COUNT


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_profiles_hold_half_a_second_of_a_camera(name: str) -> None:
    root = ET.parse(REPOSITORY / "config" / DISTRIBUTIONS[name].profile).getroot()
    tags = {element.tag.split("}")[1]: element.text for element in root.iter()}
    assert int(tags["segment_size"]) >= 0.5 * RATE_HZ * FRAME_BYTES
    assert tags["useBuiltinTransports"] == "false"
    types = [element.text for element in root.iter() if element.tag.endswith("}type")]
    assert types == ["SHM", "UDPv4"]


def test_the_environment_decides_the_distribution() -> None:
    assert distribution({"ROS_DISTRO": "jazzy"}).name == "jazzy"
    assert distribution({"ROS_DISTRO": "kilted"}).variable == "FASTDDS_DEFAULT_PROFILES_FILE"
    assert distribution({"ROS_DISTRO": "of_the_future"}).name == "kilted"
    assert distribution({}).name in DISTRIBUTIONS


def test_a_profile_of_the_user_stays() -> None:
    own = {"ROS_DISTRO": "jazzy", "FASTRTPS_DEFAULT_PROFILES_FILE": "own.xml"}
    assert profile_environment(own) == {"FASTRTPS_DEFAULT_PROFILES_FILE": "own.xml"}
    ours = profile_environment({"ROS_DISTRO": "kilted"})
    assert Path(ours["FASTDDS_DEFAULT_PROFILES_FILE"]) == REPOSITORY / "config/fastdds_kilted.xml"
