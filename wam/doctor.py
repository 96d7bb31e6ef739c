"""``wam doctor``: what this machine can do, and one line on how to get each thing it cannot.

Three answers per line: *ok*; *missing*, an option this machine does not have (no GPU, no ROS, no camera); *broken*,
something that is there or always needed and does not work. Only *broken* makes the exit status 1.
"""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from wam.doctor_probes import BROKEN, GL_PACKAGES, MISSING, OK, PROBES, Finding
from wam.doctor_ros import find_image_profile, find_shared_memory
from wam.errors import BundleError, RobotSpecError
from wam.manifest import read_manifest
from wam.robot import load_robot, robot_names
from wam.text import listed

__all__ = ["DoctorOptions", "Report", "main"]

PROBE_TIMEOUT_S = 120.0  # importing torch from a cold, slow disk takes most of it
SMALL_DISK_GB = 2.0  # a demo run with its dataset, checkpoints and videos stays below this
GL_BACKENDS = ("egl", "osmesa")  # in the order the simulation tries them

# What people come for -> the lines of the report that must be ok for it.
ABILITIES: Mapping[str, tuple[str, ...]] = {
    "run a policy": ("robot files", "ONNX Runtime"),
    "simulate and evaluate": ("robot files", "ONNX Runtime", "rendering", "video"),
    "record and train": ("robot files", "disk", "torch", "LeRobot", "video"),
    "run on ROS 2": ("robot files", "ONNX Runtime", "ROS 2", "shared memory"),
}

Report = Mapping[str, Finding]  # title -> finding, in the order they are printed


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """What this machine can do, and how to get what is missing. Exit status 1 when something is broken."""

    json: bool = False
    """Print one JSON object instead of the table."""
    bundle: Path | None = None
    """Also describe this policy bundle: its robot, and the instructions it was trained on."""


def main(argv: list[str] | None = None) -> int:
    """Prints the report; returns 0, or 1 when something is broken."""
    options = tyro.cli(DoctorOptions, args=argv, prog="wam doctor")
    report = dict(examine())
    if options.bundle is not None:
        report["bundle"] = find_bundle(options.bundle)
    if options.json:
        print(json.dumps({title: dataclasses.asdict(finding) for title, finding in report.items()}, indent=2))
    else:
        print(as_text(report))
    return int(any(finding.status == BROKEN for finding in report.values()))


def examine() -> Report:
    """Runs every check; probes that import large libraries run in processes of their own, at the same time."""
    # More imports at a time than cores would only make each of them slower.
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        probes = {name: pool.submit(run_probe, name) for name in PROBES if name != "gl"}
        gl = pool.submit(find_gl)
        return {
            "Python": find_python(),
            "system": find_system(),
            "disk": find_disk(Path.cwd()),
            "robot files": find_robots(),
            "GPU": find_gpu(),
            "torch": probes["torch"].result(),
            "LeRobot": probes["lerobot"].result(),
            "ONNX Runtime": probes["onnxruntime"].result(),
            "TensorRT": probes["tensorrt"].result(),
            "rendering": gl.result(),
            "video": probes["video"].result(),
            "ROS 2": probes["ros"].result(),
            "shared memory": find_shared_memory(),
            "Fast DDS profile": find_image_profile(),
            "cameras": probes["cameras"].result(),
        }


def as_text(report: Report) -> str:
    """The report as a table for people: status, title, value and, below, how to get what is missing."""
    width = max(map(len, report))
    lines = []
    for title, finding in report.items():
        lines.append(f"{finding.status:<8} {title:<{width}}  {finding.value}")
        if finding.fix:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.fix}")
    return "\n".join([*lines, "", *_abilities(report)])


def run_probe(name: str, environment: Mapping[str, str] | None = None) -> Finding:
    """Runs one probe in a process of its own.

    Args:
        name: A key of ``PROBES``.
        environment: Variables to add to this process's.

    Returns:
        The probe's finding; a broken one when the process crashed or did not answer in time.
    """
    command = [sys.executable, "-m", "wam.doctor_probes", name]
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    try:
        result = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": paths, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding(status=BROKEN, value=f"no answer within {PROBE_TIMEOUT_S:g} s")
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding(status=BROKEN, value=f"exit status {result.returncode}: {last}")
    # Libraries may print on import; the finding is the last line.
    return Finding(**json.loads(result.stdout.strip().splitlines()[-1]))


def find_gl() -> Finding:
    """The first GL backend that really renders a frame; only the user's, when ``MUJOCO_GL`` is set."""
    chosen = os.environ.get("MUJOCO_GL", "").strip()
    failures = []
    for backend in (chosen,) if chosen else GL_BACKENDS:
        finding = run_probe("gl", {"MUJOCO_GL": backend})
        if finding.status != BROKEN:
            return finding
        failures.append(f"{backend}: {finding.value}")
    own = f"unset MUJOCO_GL (now {chosen}), or " if chosen else ""
    return Finding(status=BROKEN, value="; ".join(failures), fix=f"{own}sudo apt-get install -y {GL_PACKAGES}")


def find_bundle(folder: Path) -> Finding:
    """What a policy bundle is for: its robot, its chunks and the instructions it was trained on, all of them."""
    try:
        manifest = read_manifest(folder)
        manifest.check_files(folder)
    except BundleError as error:
        return Finding(status=BROKEN, value=str(error))
    told = manifest.instructions
    known = f"trained on {listed(told, most=len(told or ()))}"
    return Finding(
        status=OK,
        value=f"{folder}: robot '{manifest.robot.name}', preset '{manifest.model.preset}', {manifest.dtype}, "
        f"{manifest.n_steps} steps, chunk of {manifest.chunk_length} at {manifest.robot.control_rate_hz:g} Hz, reads "
        f"{manifest.model.prompt_length} {'words' if manifest.model.text == 'words' else 'tokens'}; {known}",
    )


def find_python() -> Finding:
    """This Python; the package installs on 3.12 and later only."""
    return Finding(status=OK, value=f"{platform.python_version()} at {sys.executable}")


def find_system() -> Finding:
    """Operating system, usable CPU cores and memory."""
    name = _field("/etc/os-release", "PRETTY_NAME", "=").strip('"') or platform.system()
    cpu = _field("/proc/cpuinfo", "model name", ":") or platform.machine()
    total = _field("/proc/meminfo", "MemTotal", ":").removesuffix("kB").strip()
    free = _field("/proc/meminfo", "MemAvailable", ":").removesuffix("kB").strip()
    memory = (
        f"{int(free) / 2**20:.1f} of {int(total) / 2**20:.1f} GiB memory free" if total and free else "memory unknown"
    )
    # Cores this process may use: a container often has fewer than the machine.
    cores = len(os.sched_getaffinity(0))
    return Finding(status=OK, value=f"{name}, {platform.machine()}, {cores} cores ({cpu}), {memory}")


def find_disk(folder: Path) -> Finding:
    """Free space where runs and datasets are written by default."""
    free_gb = shutil.disk_usage(folder).free / 1e9
    value = f"{free_gb:.1f} GB free at {folder}"
    if free_gb < SMALL_DISK_GB:
        return Finding(status=BROKEN, value=value, fix=f"free some space: a run needs about {SMALL_DISK_GB:.0f} GB")
    return Finding(status=OK, value=value)


def find_robots() -> Finding:
    """Whether every robot file that can be found is valid."""
    names = robot_names()
    try:
        for name in names:
            load_robot(name)
    except RobotSpecError as error:
        return Finding(status=BROKEN, value=str(error), fix="correct that file")
    if not names:
        fix = "set WAM_ROBOT_DIR to a folder of robot files, or source the installation's setup script"
        return Finding(status=BROKEN, value="none found", fix=fix)
    return Finding(status=OK, value=", ".join(names))


def find_gpu() -> Finding:
    """NVIDIA devices, as the driver lists them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        listing = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        listing = ""
    board = Path("/proc/device-tree/model")  # Jetson boards have no complete nvidia-smi
    if not listing and board.is_file() and "jetson" in board.read_text(errors="replace").lower():
        listing = board.read_text(errors="replace").rstrip("\x00\n")
    if listing:
        return Finding(status=OK, value="; ".join(listing.splitlines()))
    return Finding(
        status=MISSING, value="no NVIDIA device", fix="none needed for the tiny model: it trains and runs on the CPU"
    )


def _abilities(report: Report) -> list[str]:
    lines = []
    for ability, needs in ABILITIES.items():
        lacking = [title for title in needs if report[title].status != OK]
        lines.append(f"{ability}: {'no, needs ' + ', '.join(lacking) if lacking else 'yes'}")
    return lines


def _field(file: str, key: str, separator: str) -> str:
    """Value of the first line ``key<separator>value`` of a text file; empty when there is none."""
    path = Path(file)
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    pairs = (line.partition(separator) for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")


if __name__ == "__main__":
    sys.exit(main())
