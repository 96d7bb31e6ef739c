"""What ROS's own ``ros2 launch`` starts for the launch files in tests/data/launch: the reference for ``ros_nodes.up``.

On a machine with ROS 2, ``python tests/launch_golden.py`` writes ``started_by_ros2_launch.json`` again (with another
launcher, ``python tests/launch_golden.py "my ros2 launch"``). The executable the files start writes down how it was
called, so this compares what processes really get, files of parameters included.
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "data/launch"
GOLDEN = FOLDER / "started_by_ros2_launch.json"
FILE = "everything.launch.xml"
CASES = {
    "defaults": [],
    "simulated, with a namespace": ["side:=left", "task:=lift the cube"],
    "a real arm": ["sim:=False", "side:=/right", "robot:=so101", "inner:=a b"],
}
SHOW = """#!{python}
import json, os, sys
from pathlib import Path
arguments = [Path(word).read_text() if Path(word).is_file() else word for word in sys.argv[1:]]
variables = {{name: value for name, value in os.environ.items() if name.startswith("WAM_TEST_")}}
call = json.dumps({{"arguments": arguments, "variables": variables}}).replace(os.environ["WAM_GOLDEN_ROOT"], "ROOT")
with open(os.environ["WAM_GOLDEN_OUT"], "a") as out:
    out.write(call + "\\n")
"""


def make_package(prefix: Path) -> Path:
    """Installs the package that the files speak of; returns its launch file."""
    share, lib = prefix / "share/show_package", prefix / "lib/show_package"
    index = prefix / "share/ament_index/resource_index/packages"
    for folder in (share / "launch", share / "config", lib, index):
        folder.mkdir(parents=True)
    (index / "show_package").touch()
    (share / "config/arm.yaml").write_text("arm: {ros__parameters: {joint_rate_hz: 100.0}}\n")
    for path in FOLDER.glob("*.launch.xml"):
        (share / "launch" / path.name).write_text(path.read_text())
    (lib / "show").write_text(SHOW.format(python=sys.executable))
    (lib / "show").chmod(0o755)
    return share / "launch" / FILE


def started(launcher: list[str], arguments: list[str], environment: dict[str, str]) -> list[dict]:
    """Runs one launch until it has started everything; returns how each process was called, in no order."""
    with tempfile.TemporaryDirectory() as folder:
        prefix, out = Path(folder).resolve() / "prefix", Path(folder) / "calls"
        file = make_package(prefix)
        variables = {
            "AMENT_PREFIX_PATH": os.pathsep.join([str(prefix), environment.get("AMENT_PREFIX_PATH", "")]),
            "WAM_GOLDEN_OUT": str(out),
            "WAM_GOLDEN_ROOT": str(prefix),
        }
        subprocess.run([*launcher, str(file), *arguments], env=environment | variables, timeout=120, check=True)
        return sorted((json.loads(line) for line in out.read_text().splitlines()), key=json.dumps)


if __name__ == "__main__":
    launcher = shlex.split(sys.argv[1]) if len(sys.argv) > 1 else ["ros2", "launch"]
    golden = {case: started(launcher, arguments, dict(os.environ)) for case, arguments in CASES.items()}
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    print(GOLDEN)
