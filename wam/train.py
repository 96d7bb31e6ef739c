"""``wam train``: demonstrations → checkpoint.

Everything random in step n is a function of (seed, n), so a run that was interrupted and started again with the same
command gives the same weights, bit for bit on a CPU, as one that was not. Ctrl-C or SIGTERM finishes the step, writes a
checkpoint and leaves with status 130. Started by ``torchrun``, several processes share every
batch (``wam.processes``); the first of them writes.
"""

import logging
import math
import signal
import sys
import time
from types import FrameType

import numpy as np
import torch
import tyro
from accelerate import Accelerator, PartialState
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wam.batches import make_batch
from wam.checkpoint import TOKENIZER_STAGE, find_checkpoint
from wam.errors import ConfigError
from wam.metrics import MetricsWriter
from wam.processes import Objective, Shards, choose_device, make_accelerator
from wam.run_state import RunState, save_run, start_run
from wam.stages import STAGES
from wam.train_config import TrainConfig
from wam.training_data import TrainingData, prepare
from wam.validation import validate

__all__ = ["INTERRUPTED", "learning_rate", "main", "run", "train"]

logger = logging.getLogger(__name__)

INTERRUPTED = 130  # exit status of a run that was stopped and can go on
VALIDATION_FRAMES = 128  # held-out observations of one validation


def train(config: TrainConfig) -> int:
    """Trains to the end or until interrupted.

    Returns:
        0 when all steps are done, ``INTERRUPTED`` otherwise; a checkpoint is on disk either way.

    Raises:
        WamError: Dataset, robot, preset or earlier run cannot be used, or training diverged.
    """
    device = choose_device(config.device)
    accelerator = make_accelerator(config, device)
    if accelerator.num_processes > 1:
        device = accelerator.device
    Shards(accelerator.num_processes, 0, config.accumulate).check(config.batch_size)
    if config.threads:
        torch.set_num_threads(config.threads)
    try:
        with _progress(hidden=not accelerator.is_main_process) as bar:
            with accelerator.main_process_first():  # the first decodes the frames, the others read what it wrote
                decoding = bar.add_task("decode", total=None, visible=False)
                data = prepare(
                    config, lambda done, total: bar.update(decoding, completed=done, total=total, visible=True)
                )
                bar.remove_task(decoding)
                run = start_run(config, data, device)
            _log_start(run, data, device, accelerator)
            return _Loop(config, data, run, accelerator, bar).run_to_end()
    finally:
        accelerator.end_training()


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up to the peak, then half a cosine to zero at the last step."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    progress = max(0, step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


class _Loop:
    """Steps, validations, checkpoints and a clean end."""

    def __init__(
        self, config: TrainConfig, data: TrainingData, run: RunState, accelerator: Accelerator, bar: Progress
    ) -> None:
        self.config, self.data, self.run, self.accelerator, self.bar = config, data, run, accelerator, bar
        self.stage = STAGES[config.stage]
        self.shards = Shards(accelerator.num_processes, accelerator.process_index, config.accumulate)
        self.device = next(run.model.parameters()).device
        objective = Objective(
            run.model, lambda model, *given: self.stage.losses(model, run.teacher, given[0], config.loss, given[1])
        )
        self.objective = accelerator.prepare_model(objective, device_placement=False)
        self.asked_to_stop = False  # this process was
        self.stop = False  # all stop, after the same step
        frames = data.validation.spread(VALIDATION_FRAMES)
        self.validation_batch = make_batch(data.episodes, frames, data.model_config, data.transforms, data.prompts)

    def run_to_end(self) -> int:
        """Runs until the last step or a stop request."""
        handlers = {number: signal.signal(number, self._request_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        writes = self.accelerator.is_main_process
        metrics = MetricsWriter(self.config.out, self.run.step) if writes else None
        task = self.bar.add_task("train", total=self.config.steps, completed=self.run.step)
        try:
            while self.run.step < self.config.steps and not self._stops():
                record = self._step()
                if self._due(self.config.validate_every) and writes:
                    record |= self._validate()
                if metrics is not None:
                    metrics.write(self.run.step, record)
                if self._due(self.config.save_every):
                    self._save()
                self.bar.update(task, completed=self.run.step, description=f"train  loss {record['loss']:.4f}")
            finished = self.run.step == self.config.steps
            if not finished:
                self._save()
            return 0 if finished else INTERRUPTED
        finally:
            if metrics is not None:
                metrics.close()
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _due(self, every: int) -> bool:
        return self.run.step % every == 0 or self.run.step == self.config.steps

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            save_run(self.config, self.data, self.run)
        self.accelerator.wait_for_everyone()

    def _validate(self) -> dict[str, float]:
        averaged, teacher = self.run.averaged.module, self.run.teacher
        return validate(averaged, teacher, self.validation_batch, self.stage, self.config.loss, self.data.transforms)

    def _step(self) -> dict[str, float]:
        started, cpu_started = time.perf_counter(), time.process_time()
        run, config = self.run, self.config
        rate = learning_rate(run.step, config)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        run.optimizer.zero_grad(set_to_none=True)
        frames = self.data.training.draw(run.step, config.batch_size)
        parts = [self._backward(frames, shard) for shard in self.shards.mine]
        norm = float(torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_norm))
        values = self._agree({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})
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

    def _backward(self, frames: np.ndarray, shard: int) -> dict[str, float]:
        """Adds the gradients of one shard; behind the last of them those of all processes are averaged."""
        data, run = self.data, self.run
        chosen = self.shards.frames(frames, shard)
        batch = make_batch(data.episodes, chosen, data.model_config, data.transforms, data.prompts).to(self.device)
        generator = self.shards.generator(self.config.seed, run.step, shard)
        with self.accelerator.accumulate(self.objective):
            losses = self.objective(batch, generator)
            self.accelerator.backward(losses["loss"])
        return {name: float(value.detach()) for name, value in losses.items()}

    def _agree(self, values: dict[str, float]) -> dict[str, float]:
        """Means over all processes, and whether any of them was asked to stop."""
        if self.accelerator.num_processes == 1:
            return values
        own = torch.tensor([*values.values(), float(self.asked_to_stop)], device=self.device)
        *means, asked = self.accelerator.reduce(own, "mean").tolist()
        self.stop = asked > 0
        return dict(zip(values, means, strict=True))

    def _stops(self) -> bool:
        return self.stop or (self.asked_to_stop and self.accelerator.num_processes == 1)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        del frame
        logger.info("signal %d: finishing this step, then saving", number)
        self.asked_to_stop = True


def _log_start(run: RunState, data: TrainingData, device: torch.device, accelerator: Accelerator) -> None:
    logger.info(
        "torch %s on %s, %s, process %d of %d, %d threads; robot %s; %d episodes, %d frames; %d parameters; "
        "from step %d",
        torch.__version__,
        device,
        "float32" if accelerator.mixed_precision == "no" else f"mixed {accelerator.mixed_precision}",
        accelerator.process_index + 1,
        accelerator.num_processes,
        torch.get_num_threads(),
        data.robot.name,
        len(data.episodes.length),
        len(data.episodes.proprio),
        sum(parameter.numel() for parameter in run.model.parameters()),
        run.step,
    )


def _progress(*, hidden: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), disable=hidden)


def main(argv: list[str] | None = None) -> int:
    """As ``wam train``, for ``torchrun -m wam.train``: what is wrong with a dataset is said after torch is loaded."""
    return run(tyro.cli(TrainConfig, args=argv, prog="wam train"))


def run(config: TrainConfig) -> int:
    """Trains and says where the result is; returns the exit status."""
    status = train(config)
    if not PartialState().is_main_process:
        return status
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
