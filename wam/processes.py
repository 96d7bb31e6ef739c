"""Where training runs: device, precision, and how a batch is shared by processes and accumulated gradients.

HuggingFace Accelerate does the work: it reads what ``torchrun`` set, starts the process group,
averages gradients and runs the forward pass in bfloat16. A batch is cut into equal shards, one for each process and
accumulation step; noise belongs to a shard and not to a process, so the same shards give the same gradients to
rounding however many processes compute them. One process and one shard, the default, computes what it would without
any of this, bit for bit.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, is_initialized
from torch import Tensor, nn

from wam.batches import Batch
from wam.errors import ConfigError
from wam.train_config import TrainConfig

__all__ = ["SEED_STRIDE", "Objective", "Shards", "choose_device", "make_accelerator"]

logger = logging.getLogger(__name__)

SEED_STRIDE = 1_000_003  # a prime: noise seeds of two runs with close seeds do not meet
MIXED = {"float32": "no", "bfloat16": "bf16"}  # precision -> Accelerate's name


class Objective(nn.Module):
    """The loss as a module, because gradients are only averaged over processes behind a module's forward.

    Args:
        model: What is trained.
        losses: (model, batch, generator) -> scalars, with "loss".
    """

    def __init__(self, model: nn.Module, losses: Callable[..., Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.model = model
        self.losses = losses

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of one shard."""
        return dict(self.losses(self.model, batch, generator))


class Shards:
    """The part of each batch that this process computes.

    Args:
        processes: Number of processes.
        rank: Number of this one.
        accumulate: Shards that each process works through before a step of the optimiser.
    """

    def __init__(self, processes: int, rank: int, accumulate: int) -> None:
        self.count = processes * accumulate
        self.mine = tuple(range(rank, self.count, processes))

    def check(self, batch_size: int) -> None:
        """Refuses a batch that cannot be cut into equal parts.

        Raises:
            ConfigError: Its size is no multiple of the number of shards.
        """
        if batch_size % self.count:
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared equally by {self.count} shards (processes x accumulate): "
                f"give a multiple of {self.count}."
            )

    def frames(self, frames: np.ndarray, shard: int) -> np.ndarray:
        """Frames of one shard, of (B,) frames of the batch."""
        return np.split(frames, self.count)[shard]

    def generator(self, seed: int, step: int, shard: int) -> torch.Generator:
        """Noise of one shard in one step."""
        base = seed * SEED_STRIDE + step
        if self.count > 1:
            base = int(np.random.SeedSequence((base, shard)).generate_state(1, np.uint32)[0])
        return torch.Generator().manual_seed(base)


def make_accelerator(config: TrainConfig, device: torch.device) -> Accelerator:
    """Joins the other processes, if there are any.

    Args:
        config: Precision and gradient accumulation.
        device: Where a single process trains; several share out the machine's GPUs, or its CPU if this is "cpu".

    Raises:
        ConfigError: The device cannot compute in the precision that was asked for.
    """
    if is_initialized() and AcceleratorState().num_processes == 1:
        AcceleratorState._reset_state(reset_partial_state=True)  # of an earlier run in this process
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=MIXED[precision],
        gradient_accumulation_steps=config.accumulate,
        # Which questions a batch asks decides which parameters it reaches; buffers are constants
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )


def choose_device(name: str) -> torch.device:
    """Returns the device that "cpu", "cuda" or "auto" names.

    Raises:
        ConfigError: There is none of that name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device 'cuda' was asked for but torch finds no CUDA device: see `wam doctor`, or use cpu.")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is unknown to torch: use cpu, cuda or auto.") from error
