#!/usr/bin/env bash
# Runs a command with ROS and this package's workspace sourced.
set -eo pipefail # not -u: ROS's setup scripts read variables that may be unset
source /opt/ros/jazzy/setup.bash
source /opt/wam/install/local_setup.bash
exec "$@"
