"""Training metrics on disk: ``metrics.jsonl`` for programs, TensorBoard for people."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

__all__ = ["MetricsWriter"]


class MetricsWriter:
    """Appends one record per step; records past the step a run resumes from are dropped, so no step stands twice."""

    def __init__(self, out: Path, resumed_step: int) -> None:
        """Opens the files.

        Args:
            out: Run folder.
            resumed_step: Steps that are done already; 0 for a new run.
        """
        out.mkdir(parents=True, exist_ok=True)
        path = out / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        # A killed process can leave half a line at the end; whole ones end with their brace
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= resumed_step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self._file = path.open("a")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, step: int, record: dict[str, float]) -> None:
        """Writes the values of one step."""
        self._file.write(json.dumps({"step": step, **record}) + "\n")
        for name, value in record.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        self._file.close()
        self._board.close()
