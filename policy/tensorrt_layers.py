"""What TensorRT made of a graph: its layers, and whether attention became one kernel each time.

On a device the engine inspector lists the layers. A builder without a device, as in continuous integration, prints the
same list at the end of its log when profiling verbosity is detailed, so the fusions are checked where no GPU is.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Layer", "count_layers", "inspected_layers", "logged_layers"]

# How TensorRT names the kernel of a whole attention, in the releases at hand: _gemm_mha_v2, _mha_v2, fmha.
FUSED_ATTENTION = re.compile(r"mha", re.IGNORECASE)
# A softmax on its own: as a layer, or written out inside one generated kernel (maximum, exponential, sum).
BARE_SOFTMAX = re.compile(r"softmax|Max\w*SubExp", re.IGNORECASE)
SYNCHRONISATION = {"signal", "wait"}  # between the streams of one engine; no work
HEADINGS = ("Layers:", "Engine Layer Information:")  # of TensorRT for RTX and of TensorRT
LOGGED_LAYERS = (
    re.compile(r"^Name: (?P<name>[^,]+), LayerType: (?P<kind>[^,]+)"),
    re.compile(r"^Layer\((?P<kind>[^)]*)\): (?P<name>[^,]+)"),
)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One kernel, copy or library call."""

    name: str  # TensorRT's; tells what was fused
    kind: str  # "gemm", "kgen", …; empty where the list does not say


def inspected_layers(trt: Any, engine: Any) -> list[Layer]:
    """Lists the layers of a deserialised engine."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(text).get("Layers", [])
    # Below detailed verbosity the entries are bare names.
    return [
        Layer(name=layer, kind="")
        if isinstance(layer, str)
        else Layer(name=str(layer.get("Name", "")), kind=str(layer.get("LayerType", "")))
        for layer in layers
    ]


def logged_layers(messages: Sequence[str]) -> list[Layer]:
    """Finds the layers in a builder's log.

    Args:
        messages: Every message of one build at verbose level; each may hold several lines.
    """
    lines = [line for message in messages if message.startswith(HEADINGS) for line in message.splitlines()]
    matches = (pattern.match(line) for line in lines for pattern in LOGGED_LAYERS)
    return [Layer(name=match["name"].strip(), kind=match["kind"].strip()) for match in matches if match]


def count_layers(layers: Iterable[Layer]) -> dict[str, int]:
    """Counts all layers that work, and those that are attention in one kernel or a softmax on its own."""
    working = [layer for layer in layers if layer.kind not in SYNCHRONISATION]
    bare = [layer for layer in working if BARE_SOFTMAX.search(layer.name) or "softmax" in layer.kind.lower()]
    return {
        "layers": len(working),
        "fused_attention": sum(bool(FUSED_ATTENTION.search(layer.name)) for layer in working),
        "bare_softmax": len(bare),
    }
