"""A model without its weights: parameters on the meta device, rotary tables and other computed buffers real."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor, nn

from wam.config import ModelConfig
from wam.model import ExpertModulation, WorldActionModel

__all__ = ["clean_modulation", "computed_buffers", "skeleton"]

_PATCHED = threading.Lock()  # one at a time: each puts back what it found
MODULATION_WEIGHTS = (".time.", "modulation")  # in the names of all that a noise level passes through


def skeleton(config: ModelConfig) -> WorldActionModel:
    """Builds a model of any size in no memory: its parameters have shapes and no values."""
    with _parameters_on_meta():
        model = WorldActionModel(config)
    return model.eval().requires_grad_(False)


def computed_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers that are computed from the configuration and therefore not in the state_dict."""
    stored = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in stored}


def clean_modulation(model: WorldActionModel, read: Callable[[str], Tensor]) -> ExpertModulation:
    """Evaluates what sigma 0 does to the video expert, reading only the weights that this takes.

    Args:
        model: A ``skeleton``; some of its parameters get values.
        read: Gives one weight by its name in the state_dict.
    """
    names = [name for name in model.state_dict() if any(part in name for part in MODULATION_WEIGHTS)]
    model.load_state_dict({name: read(name).float() for name in names}, strict=False, assign=True)
    return model.clean_modulation(torch.zeros(1))


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    thread = threading.get_ident()

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        # Another thread may build a model of its own meanwhile: that one keeps its values
        if parameter is not None and threading.get_ident() == thread:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    with _PATCHED:
        register = nn.Module.register_parameter
        with mock.patch.object(nn.Module, "register_parameter", on_meta):
            yield
