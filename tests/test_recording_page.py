"""docs/recording.md, "In short", followed line by line: simulated servos for both arms, pictures for cameras."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")
pytest.importorskip("lerobot")

from sensor_msgs.msg import Joy

from ros_nodes import qos
from tests import feetech_servos as fake
from tests.ros_graph import Graph
from tests.ros_guard_watch import GuardWatch
from wam.dataset_check import check_dataset
from wam.robot import load_robot, robot_file

pytestmark = [pytest.mark.ros, pytest.mark.slow]
SIZE_PX = 96
# Read by Python when it starts: servos in another process answer late on a busy machine
PATIENT = """
import sys
if any("arm_node" in word or "teleop_node" in word for word in sys.orig_argv):
    from feetech_servos import be_patient
    be_patient(lambda: 2.0)
"""


def lines(repository: Path) -> list[str]:
    """The commands of the page's first block, without what they say about themselves."""
    block = re.search(r"^```bash\n(.*?)^```", (repository / "docs/recording.md").read_text(), re.MULTILINE | re.DOTALL)
    assert block
    return [line.split("  #")[0].strip() for line in block[1].replace("\\\n", " ").splitlines()]


def robot(folder: Path) -> Path:
    """A SO-101 with small pictures, and a guard and an alignment for a machine that is late."""
    data = yaml.safe_load(robot_file("so101").read_text())
    for camera in data["cameras"]:
        camera |= {"width_px": SIZE_PX, "height_px": SIZE_PX}
    data["safety"] = {"image_age_s": 5.0, "state_age_s": 2.0, "stream_spread_s": 5.0, "state_fault_s": 60.0}
    data["safety"] |= {"teleop_age_s": 2.0, "tracking_error": 3.0}
    path = folder / "so101.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def film(folder: Path) -> Path:
    """Pictures in which a square moves."""
    folder.mkdir()
    for number in range(24):
        picture = np.full((SIZE_PX, SIZE_PX, 3), 90, dtype=np.uint8)
        picture[30:60, 2 * number : 2 * number + 30] = (0, 200, 255)
        cv2.imwrite(str(folder / f"{number:03d}.png"), picture)
    return folder


@pytest.fixture
def arms(tmp_path: Path) -> Iterator[dict[str, fake.FakeBus]]:
    arms = {}
    for name, place in (("arm", "robots/so_follower"), ("hand", "teleoperators/so_leader")):
        (tmp_path / name).mkdir()
        arms[name] = fake.FakeBus(tmp_path / name)
        calibration = tmp_path / "calibration" / place / f"{name}.json"
        calibration.parent.mkdir(parents=True)
        calibration.write_text(json.dumps(fake.CALIBRATION))
    yield arms
    for bus in arms.values():
        bus.close()


def test_the_page_works_as_it_stands(tmp_path: Path, repository: Path, arms: dict[str, fake.FakeBus]) -> None:
    export, joy, launch, start, engage, stop, convert, train = lines(repository)
    assert export == "export CALIBRATION=~/.cache/huggingface/lerobot/calibration"
    assert joy == "ros2 run joy joy_node"
    (tmp_path / "sitecustomize.py").write_text(PATIENT)
    here = {"robot:=so101": f"robot:={robot(tmp_path)}", "$CALIBRATION": str(tmp_path / "calibration")}
    devices = [f"port:={arms['arm'].path}", f"leader_port:={arms['hand'].path}"]
    devices += [f"device_{number}:={film(tmp_path / f'film_{number}')}" for number in (1, 2)]
    with Graph(tmp_path) as graph:
        folders = [str(tmp_path), str(repository / "tests"), str(repository)]
        graph.environment["PYTHONPATH"] = os.pathsep.join(folders)

        def run(line: str) -> str:
            program, *words = shlex.split(line)
            assert program == "wam", line
            # The joystick of this process goes on meanwhile
            done = subprocess.Popen(
                [sys.executable, "-m", "wam.cli", *words],
                cwd=tmp_path,
                env=graph.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            graph.until(lambda: done.poll() is not None, line)
            output, _ = done.communicate()
            assert done.returncode == 0, f"{line}\n{output}"
            return output

        pad = graph.node.create_publisher(Joy, "joy", qos.STATE_OFFERED)
        graph.node.create_timer(0.05, lambda: pad.publish(Joy(axes=[0.0] * 8, buttons=[0] * 4 + [1] + [0] * 6)))
        watch = GuardWatch(graph)
        for word, value in {**here, "recordings/cups": str(tmp_path / "recordings/cups")}.items():
            launch = launch.replace(word, value)
        program, *words = shlex.split(launch)
        assert [program, *words[:3]] == ["ros2", "launch", "world_action_model", "teleop_record.launch.xml"]
        graph.run("up", ["-m", "ros_nodes.up", "teleop_record", *words[3:], *devices])
        watch.until("HOLD")
        assert (start, engage) == ("wam call recorder/start", "wam call guard/engage")
        graph.insist("recorder/start")  # cameras and arms may take their time
        graph.insist("guard/engage")
        watch.until("RUN_TELEOP")
        leader, follower = (arms[name].servos[1] for name in ("hand", "arm"))

        def lead() -> None:
            if leader.get(fake.PRESENT) < 2150:
                leader.set(fake.PRESENT, leader.get(fake.PRESENT) + 2)

        timer = graph.node.create_timer(0.05, lead)
        graph.until(lambda: follower.get(fake.PRESENT) > 2140, "the arm follows the hand")
        assert "recordings/cups/episode_000000.mcap" in run(stop)
        graph.node.destroy_timer(timer)
        up = graph.processes["up"]
        up.leave()
        run(convert)
    # What trains is checked before anything heavy begins; test_record_to_training.py goes on from there
    assert train == "wam train --dataset datasets/cups --out runs/cups"
    summary = check_dataset(tmp_path / "datasets/cups", load_robot(str(tmp_path / "so101.yaml")))
    assert summary.frames > 30
