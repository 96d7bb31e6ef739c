"""Which ROS 2 distribution runs here, and the Fast DDS profile that goes with it.

A sourced installation names itself in ``ROS_DISTRO``; the Python wheels do not, so rclpy's version tells. Fast DDS 2
(Jazzy) and 3 (Kilted) read their profiles from files of different form, named by different variables.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from ros_nodes.launch_text import PACKAGE, find_share

__all__ = ["DISTRIBUTIONS", "Distribution", "changed_environment", "distribution", "profile_environment"]


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What differs between the distributions we run on."""

    name: str
    rclpy: int  # major version of rclpy
    profile: str  # file in config/
    variable: str  # environment variable that Fast DDS reads the profile's place from


DISTRIBUTIONS: Mapping[str, Distribution] = {
    "jazzy": Distribution(
        name="jazzy", rclpy=7, profile="fastdds_jazzy.xml", variable="FASTRTPS_DEFAULT_PROFILES_FILE"
    ),
    # Kilted still takes Jazzy's variable, but warns, and gets confused when both are set.
    "kilted": Distribution(
        name="kilted", rclpy=9, profile="fastdds_kilted.xml", variable="FASTDDS_DEFAULT_PROFILES_FILE"
    ),
}


def distribution(environment: Mapping[str, str]) -> Distribution:
    """Returns the distribution of this environment; a later one than we know is treated as the newest we know."""
    named = environment.get("ROS_DISTRO", "")
    if named in DISTRIBUTIONS:
        return DISTRIBUTIONS[named]
    newest = max(DISTRIBUTIONS.values(), key=lambda known: known.rclpy)
    if named:
        return newest
    try:
        major = int(version("ros-rclpy").split(".")[0])
    except PackageNotFoundError:
        return newest
    return next((known for known in DISTRIBUTIONS.values() if known.rclpy == major), newest)


def profile_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that let Fast DDS carry camera images; a profile that is set already stays."""
    here = distribution(environment)
    ours = find_share(PACKAGE, environment) / "config" / here.profile
    return {here.variable: environment.get(here.variable) or str(ours)}


@contextlib.contextmanager
def changed_environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process, and puts back what was there before: ROS reads its settings from them."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
