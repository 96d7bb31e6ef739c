"""What ``wam doctor`` says about ROS besides whether it is there: can camera images get from one process to another?

Fast DDS carries images through shared memory, with segments that are too small unless a profile says otherwise, and
takes them from /dev/shm, which a container keeps small. Neither shortage is reported by anything else: frames vanish.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from wam.doctor_probes import BROKEN, MISSING, OK, Finding

__all__ = ["find_image_profile", "find_shared_memory"]

SHARED_MEMORY = Path("/dev/shm")
NEEDED_MB = 256  # a dozen processes (recorder and tools included) with a segment of 16 MiB each, and some air
PROFILE_VARIABLES = {"FASTRTPS_DEFAULT_PROFILES_FILE": "jazzy", "FASTDDS_DEFAULT_PROFILES_FILE": "kilted"}


def find_shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Whether there is room for the nodes' image buffers."""
    if not folder.is_dir():
        fix = "ROS falls back on the network stack and loses camera frames: mount a tmpfs there"
        return Finding(status=MISSING, value=f"{folder} does not exist", fix=fix)
    usage = shutil.disk_usage(folder)
    value = f"{usage.free / 1e6:.0f} of {usage.total / 1e6:.0f} MB free at {folder}"
    if usage.free >= NEEDED_MB * 1e6:
        return Finding(status=OK, value=value)
    fix = f"nodes with cameras need {NEEDED_MB} MB: docker run --ipc host (or --shm-size 1g)"
    if usage.total >= NEEDED_MB * 1e6:
        fix = f"with no node running, remove what killed ones left: rm {folder}/*fastrtps* {folder}/*fastdds*"
    return Finding(status=MISSING, value=value, fix=fix)


def find_image_profile(environment: Mapping[str, str] | None = None) -> Finding:
    """Which Fast DDS profile nodes started from this shell get."""
    environment = os.environ if environment is None else environment
    rmw = environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if "fastrtps" not in rmw:
        return Finding(status=OK, value=f"not needed: {rmw} is chosen")
    given = {name: environment[name] for name in PROFILE_VARIABLES if environment.get(name)}
    for name, path in given.items():
        if not Path(path).is_file():
            return Finding(status=BROKEN, value=f"{name}={path}, which does not exist", fix=f"unset {name}")
    if given:
        return Finding(status=OK, value=", ".join(f"{name}={path}" for name, path in given.items()))
    variable, distribution = next(
        (pair for pair in PROFILE_VARIABLES.items() if pair[1] == environment.get("ROS_DISTRO")),
        next(iter(PROFILE_VARIABLES.items())),
    )
    fix = f"nodes started by hand: export {variable}=<share>/config/fastdds_{distribution}.xml, or they lose images"
    return Finding(status=MISSING, value="none in this shell; launch files and `wam up` bring their own", fix=fix)
