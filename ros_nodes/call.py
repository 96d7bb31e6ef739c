"""``wam call guard/engage``: calls one of the graph's services, for machines without ROS's command line tools."""

import sys
import time
from dataclasses import dataclass
from typing import Annotated

import rclpy
import tyro
from rclpy.executors import SingleThreadedExecutor
from std_srvs.srv import Trigger

from ros_nodes.errors import GraphError
from ros_nodes.graph import open_node
from wam.errors import ConfigError, unknown_name

__all__ = ["SERVICES", "CallConfig", "call", "main"]

SERVICES = (
    *("guard/engage", "guard/e_stop", "guard/reset", "policy/reset", "arm/next_episode", "teleop/clear_e_stop"),
    *("recorder/start", "recorder/stop", "recorder/discard", "calibration/capture"),
)


@dataclass(frozen=True, kw_only=True)
class CallConfig:
    """Call a service of the running graph: engage or stop the arm, start or stop recording."""

    service: Annotated[str, tyro.conf.Positional]  # guard/engage, guard/e_stop, recorder/start, ...
    namespace: str = ""  # of the graph, when it was started in one
    timeout_s: float = 5.0  # how long to look for the service and wait for its answer [s]

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s:g} but must be a time above 0.")


def call(config: CallConfig) -> tuple[bool, str]:
    """Calls the service and returns its answer.

    Raises:
        GraphError: No such service is known or running, or it did not answer in time.
    """
    if config.service not in SERVICES:
        raise GraphError(unknown_name("service", config.service, SERVICES))
    context = rclpy.Context()
    context.init(args=[])
    try:
        node = open_node("wam_call", context, config.namespace)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        client = node.create_client(Trigger, config.service)
        end = time.monotonic() + config.timeout_s
        while not client.service_is_ready():
            if time.monotonic() > end:
                name, domain = node.resolve_service_name(config.service), context.get_domain_id()
                raise GraphError(
                    f"nobody offers {name} on ROS domain {domain}: is that node running, on this ROS_DOMAIN_ID and in "
                    "this namespace?"
                )
            executor.spin_once(timeout_sec=0.05)
        future = client.call_async(Trigger.Request())
        while not future.done():
            if time.monotonic() > end:
                raise GraphError(f"{config.service} did not answer within {config.timeout_s:g} s: its node hangs.")
            executor.spin_once(timeout_sec=0.05)
        answer = future.result()
        return bool(answer.success), str(answer.message)
    finally:
        context.try_shutdown()


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam call``.

    Returns:
        0 when the service agreed, 1 when it refused.
    """
    success, message = call(tyro.cli(CallConfig, args=argv, prog="wam call"))
    print(message, file=sys.stdout if success else sys.stderr)
    return 0 if success else 1


if __name__ == "__main__":
    sys.exit(main())
