"""A golden sample inside every bundle: inputs, noise and the chunk that PyTorch made of them in float32.

A machine without torch, and a type that no CPU runtime executes, have no reference to be checked against. With this
file ``wam verify`` compares any backend on any device with the model that was trained.

Shape legend: H chunk length, A action width, N denoising steps, S noise draws.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from wam.graphs import Stage, example_inputs
from wam.manifest import GOLDEN_FILE
from wam.model import WorldActionModel
from wam.sigmas import sigma_schedule

__all__ = ["write_golden"]

SEED = 2000  # away from the seeds of tracing and of parity
DRAWS = 2  # S: their difference tells what difference in a chunk matters


def write_golden(model: WorldActionModel, stages: Sequence[Stage], folder: Path, n_steps: int) -> None:
    """Writes ``golden.safetensors``.

    It holds ``instruction``, ``images`` and ``proprio`` as the graphs take them, ``noise`` (S, H, A), ``sigmas``
    (N + 1,) and ``chunks`` (S, H, A), normalised.

    Args:
        model: The reference, on the CPU in float32.
        stages: Its stages.
        folder: Of the bundle.
        n_steps: Denoising steps.
    """
    config = model.config
    inputs = example_inputs(config, SEED)
    noise = torch.stack([example_inputs(config, SEED + draw)["actions"] for draw in range(DRAWS)])  # (S, H, A)
    sigmas = sigma_schedule(n_steps, config.action_shift)
    chunks = torch.stack([_chunk(stages, {**inputs, "actions": draw}, sigmas) for draw in noise])
    instruction = inputs[stages[0].inputs[0]]
    arrays = {
        "instruction": instruction,
        "images": inputs["images"],
        "proprio": inputs["proprio"],
        "noise": noise,
        "sigmas": torch.tensor(sigmas),
        "chunks": chunks,
    }
    save_file({name: tensor.contiguous() for name, tensor in arrays.items()}, folder / GOLDEN_FILE)


def _chunk(stages: Sequence[Stage], tensors: dict[str, Tensor], sigmas: Sequence[float]) -> Tensor:
    prompt, context, levels, denoise = stages[:4]  # a fifth answers another question
    tensors |= prompt(tensors)
    tensors |= context(tensors)
    for pair in itertools.pairwise(sigmas):
        tensors |= {
            name: torch.full_like(tensors["sigma"], value) for name, value in zip(levels.inputs, pair, strict=True)
        }
        tensors |= levels(tensors)
        tensors["actions"] = denoise(tensors)["actions_next"]
    return tensors["actions"]
