"""The latency that goes into the loop: a number, or what the real policy takes on this machine.

It is measured before the episodes, alone on the machine, with the observations of a real scene, because a robot's
computer has nothing else to do; and it is measured again during the run, for the report.
"""

import math
import time

from policy.rtc import Continuation
from policy.runner import Policy
from policy.schedule import CONTINUING
from sim.arm_sim import ArmSim
from sim.statistics import percentiles_ms
from wam.errors import ConfigError, unknown_name

__all__ = ["MEASURED", "latency_seconds", "measure_latency", "parse_latency"]

MEASURED = {"measured-p50": "p50", "measured-p99": "p99"}  # choice -> key of percentiles_ms
WARM_UP_CHUNKS = 5  # the first calls pay for the prompt, memory arenas and cold caches
MEASURED_CHUNKS = 100  # enough for a 99th percentile, under a second for the tiny model


def parse_latency(text: str) -> float | str:
    """Reads ``--latency-ms``.

    Args:
        text: A number of milliseconds or a key of ``MEASURED``.

    Returns:
        Milliseconds, or that key.

    Raises:
        ConfigError: It is neither.
    """
    if text in MEASURED:
        return text
    try:
        value = float(text)
    except ValueError:
        fix = "Or give a number of milliseconds, such as 50."
        raise ConfigError(unknown_name("latency", text, MEASURED, fix=fix)) from None
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"latency is {text} ms but must be a finite number of milliseconds, 0 or more.")
    return value


def measure_latency(
    policy: Policy, sim: ArmSim, seed: int, *, chunks: int = MEASURED_CHUNKS, mode: str = "asynchronous"
) -> dict[str, float]:
    """Times observation to action chunk, preprocessing included and rendering not.

    Args:
        policy: The real policy.
        sim: Where the observations come from; reset here.
        seed: Of the scene.
        chunks: How many to time, after a warm-up.
        mode: Of ``policy.schedule``; in those that continue a chunk every chunk continues the one before.

    Returns:
        ``percentiles_ms`` of the wall times.
    """
    sim.reset(seed)
    policy.reset()
    observation = sim.observation()
    times_ms, known = [], {}
    for number in range(WARM_UP_CHUNKS + chunks):
        begun = time.perf_counter()
        chunk = policy.infer(observation, noise_seed=number, **known)
        times_ms.append(1e3 * (time.perf_counter() - begun))
        if mode in CONTINUING:
            hard = mode == "hard_prefix"
            known = {"continuation": Continuation(actions=chunk.actions[1:], delay=1, horizon=4, hard=hard)}
    return percentiles_ms(times_ms[WARM_UP_CHUNKS:])


def latency_seconds(choice: float | str, measured_ms: dict[str, float]) -> float:
    """Returns the latency of a parsed choice [s]."""
    return (measured_ms[MEASURED[choice]] if isinstance(choice, str) else choice) / 1e3
