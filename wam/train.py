"""``wam train``: demonstrations → checkpoint.

Everything random in step n is a function of (seed, n), so a run that was interrupted and started again with the same
command gives the same weights, bit for bit on a CPU, as one that was not. Ctrl-C or SIGTERM finishes the step, writes a
checkpoint and leaves with status 130.
"""

import logging
import math
import signal
import sys
import time
from types import FrameType

import torch
import tyro
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wam.batches import make_batch
from wam.checkpoint import TOKENIZER_STAGE, find_checkpoint
from wam.errors import ConfigError
from wam.metrics import MetricsWriter
from wam.run_state import RunState, save_run, start_run
from wam.stages import STAGES
from wam.train_config import TrainConfig
from wam.training_data import TrainingData, prepare
from wam.validation import validate

__all__ = ["INTERRUPTED", "learning_rate", "main", "train"]

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status of a run that was stopped and can go on
DEFAULT_THREADS = 2  # most CPU threads unless asked for; the same number everywhere also gives the same sums
VALIDATION_FRAMES = 128  # held-out observations of one validation
SEED_STRIDE = 1_000_003  # a prime: noise seeds of two runs with close seeds do not meet


def train(config: TrainConfig) -> int:
    """Trains to the end or until interrupted.

    Returns:
        0 when all steps are done, ``INTERRUPTED`` otherwise; a checkpoint is on disk either way.

    Raises:
        WamError: Dataset, robot, preset or earlier run cannot be used, or training diverged.
    """
    torch.set_num_threads(config.threads or min(DEFAULT_THREADS, torch.get_num_threads()))
    device = _device(config.device)
    with _progress() as bar:
        decoding = bar.add_task("decode", total=None, visible=False)
        data = prepare(config, lambda done, total: bar.update(decoding, completed=done, total=total, visible=True))
        bar.remove_task(decoding)
        run = start_run(config, data, device)
        _log_start(run, data, device)
        return _Loop(config, data, run, device, bar).run_to_end()


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then half a cosine to zero at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class _Loop:
    """Steps, validations, checkpoints and a clean end."""

    def __init__(
        self, config: TrainConfig, data: TrainingData, run: RunState, device: torch.device, bar: Progress
    ) -> None:
        self.config, self.data, self.run, self.device, self.bar = config, data, run, device, bar
        self.stage = STAGES[config.stage]
        self.stop = False
        frames = data.validation.spread(VALIDATION_FRAMES)
        self.validation_batch = make_batch(data.episodes, frames, data.model_config, data.transforms, data.prompts)

    def run_to_end(self) -> int:
        """Runs until the last step or a stop request."""
        handlers = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        metrics = MetricsWriter(self.config.out, self.run.step)
        task = self.bar.add_task("train", total=self.config.steps, completed=self.run.step)
        try:
            while self.run.step < self.config.steps and not self.stop:
                record = self._step()
                if self._due(self.config.validate_every):
                    record |= self._validate()
                metrics.write(self.run.step, record)
                if self._due(self.config.save_every):
                    save_run(self.config, self.data, self.run)
                self.bar.update(task, completed=self.run.step, description=f"train  loss {record['loss']:.4f}")
            finished = self.run.step == self.config.steps
            if not finished:
                save_run(self.config, self.data, self.run)
            return 0 if finished else INTERRUPTED
        finally:
            metrics.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _due(self, every: int) -> bool:
        return self.run.step % every == 0 or self.run.step == self.config.steps

    def _validate(self) -> dict[str, float]:
        averaged, teacher = self.run.averaged.module, self.run.teacher
        return validate(averaged, teacher, self.validation_batch, self.stage, self.config.loss, self.data.transforms)

    def _step(self) -> dict[str, float]:
        started, cpu_started = time.perf_counter(), time.process_time()
        run, config, data = self.run, self.config, self.data
        frames = data.training.draw(run.step, config.batch_size)
        batch = make_batch(data.episodes, frames, data.model_config, data.transforms, data.prompts).to(self.device)
        generator = torch.Generator().manual_seed(config.seed * SEED_STRIDE + run.step)
        rate = learning_rate(run.step, config)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        losses = self.stage.losses(run.model, run.teacher, batch, config.loss, generator)
        run.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = float(torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_norm))
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(norm)):
            raise ConfigError(
                f"loss is {values['loss']} and gradient norm {norm} at step {run.step}: training diverged. Lower "
                f"--learning-rate (now {config.learning_rate}); the last checkpoint in {config.out} is intact."
            )
        run.optimizer.step()
        run.averaged.update_parameters(run.model)
        run.step += 1
        spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu_started}
        return {**values, "grad_norm": norm, "lr": rate, **spent}

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        logger.info("signal %d: finishing this step, then saving", number)
        self.stop = True


def _log_start(run: RunState, data: TrainingData, device: torch.device) -> None:
    logger.info(
        "torch %s on %s, float32, %d threads; robot %s; %d episodes, %d frames; %d parameters; from step %d",
        torch.__version__,
        device,
        torch.get_num_threads(),
        data.robot.name,
        len(data.episodes.length),
        len(data.episodes.proprio),
        sum(parameter.numel() for parameter in run.model.parameters()),
        run.step,
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for but torch finds no CUDA device: see `wam doctor`, or use cpu.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is unknown to torch: use cpu, cuda or auto.") from error


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn())


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam train``."""
    config = tyro.cli(TrainConfig, args=argv, prog="wam train")
    status = train(config)
    checkpoint = find_checkpoint(config.out)
    if status == INTERRUPTED:
        print(f"interrupted; {checkpoint} is saved. The same command goes on from there.")
    else:
        print(f"checkpoint: {checkpoint}\nmetrics:    {config.out / 'metrics.jsonl'}")
        if config.stage == TOKENIZER_STAGE:
            print(f"use it:     wam train --tokenizer {config.out}")
    return status


if __name__ == "__main__":
    sys.exit(main())
