"""What ``wam bench guard`` can be told, and the ways to join chunks that it compares."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.guarded import GuardedSettings
from sim.tasks import get_task
from wam.errors import ConfigError, unknown_name

__all__ = ["ROWS", "BenchGuardConfig", "Row"]

SLOW_S = 0.3  # time between two observations of the row that replans seldom; below every robot's chunk_age_s


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to join chunks."""

    what: str  # for people
    mode: str  # a key of ``sim.rollout.MODES``
    execution_horizon: int | None = None
    same_noise: bool | None = None
    slow: bool = False  # observes every SLOW_S


ROWS: Mapping[str, Row] = {
    "ensemble": Row(what="temporal ensembling, fresh noise (what the policy node does)", mode="temporal-ensembling"),
    "async": Row(what="the newest chunk takes over; same noise", mode="async"),
    "async-fresh": Row(what="the same as async, fresh noise for every chunk", mode="async", same_noise=False),
    "async-fresh-slow": Row(
        what=f"the same as async-fresh, replanned every {SLOW_S:g} s only", mode="async", same_noise=False, slow=True
    ),
    "rtc-2": Row(what="real-time chunking, horizon 2, fresh noise", mode="real-time-chunking", execution_horizon=2),
    "rtc-4": Row(what="real-time chunking, horizon 4, fresh noise", mode="real-time-chunking", execution_horizon=4),
    "rtc-4-same": Row(
        what="the same as rtc-4 on the same noise", mode="real-time-chunking", execution_horizon=4, same_noise=True
    ),
    "ensemble-same": Row(what="temporal ensembling on the same noise", mode="temporal-ensembling", same_noise=True),
    "hold-last": Row(what="plays three actions, then waits for the next chunk", mode="hold-last", execution_horizon=3),
}


@dataclass(frozen=True, kw_only=True)
class BenchGuardConfig:
    """Play a bundle through guard and inference thread in simulated time, by how its chunks are joined."""

    bundle: Path  # policy bundle folder
    task: str = "lift"  # task of the suite: reach, lift, push or place
    episodes: int = 50  # scenes per row, the same for every row
    split: str = "validation"  # where seeds come from: test, validation or demos
    rows: str = "all"  # ways to join chunks, comma-separated, the first is compared with the others; or all
    rate_hz: float = 10.0  # observations per second, as the policy node's parameter
    latency_ms: float = 60.0  # from an observation to its chunk [ms], in the loop
    n_steps: int = 0  # denoising steps per chunk; 0: what the bundle says
    backend: str = "auto"  # inference runtime
    robot: str = ""  # robot name or file; default: the one the bundle was made for
    workers: int = 0  # processes; 0: one per CPU core. Does not change the result
    out: Path = Path("runs/bench_guard")  # folder for results.json
    overwrite: bool = False  # replace results that are in that folder already

    def __post_init__(self) -> None:
        get_task(self.task)
        for name in self.row_names:
            if name not in ROWS:
                raise ConfigError(unknown_name("row", name, ROWS, fix="Or 'all'."))
        if self.episodes < 1 or self.workers < 0 or self.n_steps < 0:
            raise ConfigError(
                f"episodes is {self.episodes}, workers {self.workers} and n_steps {self.n_steps}: at least 1, and not "
                "negative."
            )
        for name in self.row_names:
            self.settings(name)  # refuses what cannot be

    @property
    def row_names(self) -> tuple[str, ...]:
        """Rows to play, in order."""
        names = tuple(name.strip() for name in self.rows.split(",") if name.strip())
        return tuple(ROWS) if names in ((), ("all",)) else names

    def settings(self, name: str) -> GuardedSettings:
        """How a row is played."""
        row = ROWS[name]
        return GuardedSettings(
            mode=row.mode,
            latency_s=self.latency_ms / 1e3,
            rate_hz=1.0 / SLOW_S if row.slow else self.rate_hz,
            execution_horizon=row.execution_horizon,
            same_noise=row.same_noise,
        )
