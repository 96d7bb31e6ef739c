"""Parity of a bundle with the model it came from, whatever its type and size.

float32 and float16 graphs run on ONNX Runtime's CPU as they are. bfloat16 ones do not, so a float32 twin of them is
exported from the same weights and compared: it shows that structure and weights are right, and the rounding is left to
``wam verify`` on the device. A model that would not fit into memory beside its reference is cut to its first and last
layer: every kind of node is in them. The report says which of this was done.
"""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from wam.bundle_graphs import write_graphs
from wam.export_source import ExportSource, some_layers
from wam.golden import write_golden
from wam.graphs import stages
from wam.manifest import GraphSpec, ParityReport
from wam.model import WorldActionModel
from wam.parity import TOLERANCES, check_parity, measure_parity
from wam.skeleton import skeleton
from wam.vae_fold import FirstFrameVae

__all__ = ["bundle_parity", "reference_model"]

TWIN = "float32"  # type of the twin of a bundle that no CPU runtime executes
BYTES_PER_WEIGHT = 4 * 4  # reference, mapped file, packed copies of the runtime, and room for everything else


def bundle_parity(
    source: ExportSource, graphs: Mapping[str, GraphSpec], folder: Path, dtype: str, step_counts: Sequence[int]
) -> ParityReport:
    """Compares the graphs of a new bundle, or a twin of them, with the model, and writes the golden sample.

    Args:
        source: What was exported.
        graphs: The bundle's graphs.
        folder: Where they are.
        dtype: Type of the bundle.
        step_counts: Numbers of denoising steps for which the whole chunk is compared.

    Raises:
        BundleError: They differ by more than the tolerance of their type.
    """
    layers = _layers(source)
    runs_as = dtype if dtype in TOLERANCES else TWIN
    if layers is None:
        model, encoder = reference_model(source)
        write_golden(model, stages(model, vae=encoder), folder, max(step_counts))
        del model
    if layers is None and runs_as == dtype:
        return _checked(source, graphs, folder, runs_as, step_counts, "all")
    part = source if layers is None else some_layers(source, layers)
    total = source.config.num_layers
    described = "all" if layers is None else f"{', '.join(map(str, layers))} of 0 to {total - 1}"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}_twin_") as twin:
        twins = write_graphs(part.config, part.weights, Path(twin), dtype=runs_as, vae=part.vae)
        return _checked(part, twins, Path(twin), runs_as, step_counts, described)


def reference_model(source: ExportSource) -> tuple[WorldActionModel, nn.Module | None]:
    """Builds the model of a source, and the encoder of its frozen autoencoder, in float32 on the CPU."""
    model = skeleton(source.config)
    weights = {name: source.weights.read(name).float() for name in model.state_dict()}
    model.load_state_dict(weights, assign=True)
    return model, None if source.vae is None else FirstFrameVae(source.vae)


def _checked(
    source: ExportSource,
    graphs: Mapping[str, GraphSpec],
    folder: Path,
    dtype: str,
    step_counts: Sequence[int],
    layers: str,
) -> ParityReport:
    model, encoder = reference_model(source)
    report = measure_parity(model, stages(model, vae=encoder), graphs, folder, step_counts, dtype=dtype, layers=layers)
    check_parity(report)
    return report


def _layers(source: ExportSource) -> tuple[int, ...] | None:
    """Layers to compare; None for all of them."""
    weights = sum(math.prod(shape) for shape in source.weights.shapes().values())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return None if weights * BYTES_PER_WEIGHT < memory else (0, source.config.num_layers - 1)
