"""Starts what a launch file says as ``ros2 launch`` does, and does nothing for its nodes when it is asked to end.

``bare_launcher.py FILE name:=value ...``: children in its own process group, their output through pipes of which it
prints every line, no death signal. SIGTERM and SIGKILL end it and nothing else; SIGINT is taken no notice of, because
the terminal sends that to the nodes as well. It ends when its nodes have.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from ros_nodes.launch_plan import ParameterFile, ProcessPlan, plan
from ros_nodes.up import parse_arguments


def start(process: ProcessPlan, folder: Path) -> subprocess.Popen[str]:
    """Starts one process; says its number."""
    arguments = []
    for place, argument in enumerate(process.arguments):
        if isinstance(argument, ParameterFile):
            path = folder / f"{process.label}-{place}.yaml"
            path.write_text(argument.text)
            argument = str(path)
        arguments.append(argument)
    child = subprocess.Popen(
        arguments, env=process.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(f"{process.label} started (pid {child.pid})", flush=True)
    return child


def follow(label: str, child: subprocess.Popen[str]) -> None:
    """Prints what a process prints, until it ends, and then how."""
    assert child.stdout
    for line in child.stdout:
        print(f"[{label}] {line}", end="", flush=True)
    print(f"{label} ended with {child.wait()}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: None)
    with tempfile.TemporaryDirectory() as folder:
        plans = plan(Path(sys.argv[1]), parse_arguments(sys.argv[2:]), os.environ)
        readers = [
            threading.Thread(target=follow, args=(process.label, start(process, Path(folder)))) for process in plans
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
