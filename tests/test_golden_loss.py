"""Training numerics do not drift: the first losses of a fixed seed, recorded bit for bit.

A change of the network that should not alter what it computes must leave these numbers as they are. One that should
alter them records new ones: ``python tests/test_golden_loss.py`` prints the table.
"""

import dataclasses

import pytest
import torch

from tests.random_batches import random_batch
from wam.config import preset
from wam.losses import LossConfig, training_losses
from wam.model import WorldActionModel
from wam.robot import load_robot

VARIANTS = {
    "micro": ("micro", {}),
    "tiny": ("tiny", {}),
    "bare": ("micro", {"qk_norm": False, "learned_positions": False}),
    "velocity": ("micro", {"action_prediction": "velocity"}),
}
STEPS = 4
# Sums of products may round differently with another BLAS or instruction set; the same machine gives the same bits.
TOLERANCE = 1e-5
GOLDEN = {
    "micro": [1.3181288242340088, 1.4528884887695312, 1.4618219137191772, 1.9737894535064697],
    "tiny": [2.126403331756592, 3.581063747406006, 2.172844886779785, 1.2697645425796509],
    "bare": [1.2907304763793945, 1.4435417652130127, 1.4578852653503418, 1.9538620710372925],
    "velocity": [2.038686990737915, 2.612579584121704, 2.4991414546966553, 2.7329535484313965],
}


def first_losses(name: str) -> list[float]:
    """Returns the total loss of the first optimiser steps."""
    base, changes = VARIANTS[name]
    torch.manual_seed(0)
    model = WorldActionModel(dataclasses.replace(preset(base, load_robot("sim6")), **changes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    values = []
    for step in range(STEPS):
        loss = training_losses(model, random_batch(model.config), LossConfig(), torch.Generator().manual_seed(step))[
            "loss"
        ]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values


@pytest.mark.parametrize("name", VARIANTS)
def test_first_losses_are_the_recorded_ones(name: str):
    assert first_losses(name) == pytest.approx(GOLDEN[name], rel=TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for variant in VARIANTS:
        print(f"    {variant!r}: {first_losses(variant)},")
