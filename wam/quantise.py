"""``wam quantise``: 8-bit products or 4-bit weights in a bundle, calibrated on a dataset and judged before it is kept.

nvidia-modelopt chooses scales and inserts quantise/dequantise pairs; it lives in an environment of its own
(``make quantise-environment``), because it needs other versions of onnx and onnxruntime than everything else here. Only
queries, keys, values, output projections and feed-forward layers are quantised: embeddings, timesteps, norms and heads
stay as they are. The result is refused when it changes chunks by more than half of what another noise seed changes.

INT8 runs on ONNX Runtime's CPU, so it is judged there. FP8 graphs are judged there too, by ONNX Runtime's emulation of
the 8-bit values; no CPU and no RTX card before Ada executes them at speed. INT4 is for weights alone, of the action
expert, in blocks of one column: the denoising loop reads an eighth of the bytes and multiplies as before.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import tyro

from wam.errors import BundleError, ConfigError, unknown_name
from wam.export import new_bundle
from wam.manifest import Manifest, file_sha256, read_manifest
from wam.operator_gate import require_operators
from wam.quantise_data import Chain, chunk_ratio, dataset_samples
from wam.quantise_graph import separate_products, stored_quantised

__all__ = ["QuantiseConfig", "main", "quantise_bundle"]

METHODS = {"int8": "max", "fp8": "max", "int4": "awq_clip"}  # scheme -> how modelopt chooses scales
ENVIRONMENT = Path(__file__).resolve().parent.parent / ".venv-quantise"
LAYERS = "(qkv|out|cross_q|cross_out|ffn.0|ffn.2)"
EXPERTS = {"denoise": "action", "context": "video"}  # graph -> expert whose layers it runs
INT4_BLOCK = 64  # weights of a column that share a scale; layers with a width that is no multiple stay as they are
TARGETS = {"int8": ("10.16", "11.4"), "fp8": ("11.4",), "int4": ("10.16", "11.4")}  # TensorRT that reads the result
EXECUTED = {
    "int8": "onnxruntime CPU",
    "fp8": "onnxruntime CPU, FP8 values emulated",
    "int4": "onnxruntime CPU, weights of 4 bits and products in float32",
}
LARGEST_CHANGE = 0.5  # of the difference between two noise seeds
LARGEST_INLINE = 1_500_000_000  # bytes; a graph above keeps its weights in a file beside it


@dataclass(frozen=True, kw_only=True)
class QuantiseConfig:
    """Quantise a float32 bundle with nvidia-modelopt, calibrated on a dataset."""

    bundle: Annotated[Path, tyro.conf.Positional]  # float32 bundle of `wam export`
    dataset: Path  # LeRobot dataset of the same robot, to calibrate with and to judge by
    out: Path  # folder of the new bundle
    scheme: str = "int8"  # int8, fp8, or int4: weights of the denoising loop alone
    observations: int = 32  # observations to calibrate with, at all denoising steps; as many more judge
    keep_prefill_kv: bool = False  # leave the layers that make the context's keys and values in full precision
    overwrite: bool = False  # replace the bundle that is already at --out

    def __post_init__(self) -> None:
        if self.scheme not in METHODS:
            raise ConfigError(unknown_name("scheme", self.scheme, METHODS))
        if self.observations < 1:
            raise ConfigError(f"observations is {self.observations} but at least 1 is needed to calibrate.")


def quantise_bundle(config: QuantiseConfig) -> Manifest:
    """Writes a quantised bundle.

    Returns:
        Its manifest; ``quantisation`` says what was done and what the gate measured.

    Raises:
        BundleError: The bundle is not float32, or its chunks change by too much.
        ConfigError: The environment of nvidia-modelopt is missing, or the dataset is too small.
    """
    manifest = read_manifest(config.bundle)
    manifest.check_files(config.bundle)
    if manifest.dtype != "float32" or manifest.quantisation:
        raise BundleError(f"{config.bundle} is not a plain float32 bundle: quantise one of wam export --dtype float32.")
    python = _python()
    with new_bundle(config.out, config.overwrite) as folder, tempfile.TemporaryDirectory() as work:
        calibrate, judge = dataset_samples(config.dataset, manifest, config.observations, Path(work) / "frames")
        before = Chain(config.bundle, manifest)
        record: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in _graphs(config.scheme)}
        for seed, sample in enumerate(calibrate):
            before.chunk(sample, seed, record)
        for name, graph in manifest.graphs.items():
            model = onnx.load(config.bundle / graph.file)  # with its weights: the new bundle holds them in the graphs
            if name in record:
                model = _quantised(python, model, record[name], _nodes(name, config), config.scheme, Path(work) / name)
            _save(model, folder / graph.file)
            require_operators(folder / graph.file, TARGETS[config.scheme])
        after = Chain(folder, manifest, emulate_fp8=config.scheme == "fp8")
        return _finish(config, manifest, folder, chunk_ratio(before, after, judge))


def _graphs(scheme: str) -> tuple[str, ...]:
    """Graphs whose layers are quantised."""
    return ("denoise",) if scheme == "int4" else tuple(EXPERTS)


def _nodes(graph: str, config: QuantiseConfig) -> list[str]:
    layers = LAYERS.replace("qkv|", "") if graph == "context" and config.keep_prefill_kv else LAYERS
    return [rf"experts\.{EXPERTS[graph]}\.blocks\.\d+\.{layers}/Gemm"]


def _quantised(
    python: Path, model: onnx.ModelProto, inputs: dict[str, list[np.ndarray]], nodes: list[str], scheme: str, work: Path
) -> onnx.ModelProto:
    work.mkdir()
    job: dict[str, Any] = {
        "graph": str(work / "graph.onnx"),
        "calibration": str(work / "inputs.npz"),
        "scheme": scheme,
        "method": METHODS[scheme],
        "block": INT4_BLOCK,
        "nodes": nodes,
        "out": str(work / "quantised.onnx"),
    }
    if scheme == "int4":
        model = separate_products(model, nodes, INT4_BLOCK)
    onnx.save(model, job["graph"])
    # modelopt cuts every array along its first axis into pieces of the graph's input.
    np.savez(job["calibration"], **{name: np.concatenate(values) for name, values in inputs.items()})
    (work / "job.json").write_text(json.dumps(job))
    worker = Path(__file__).with_name("quantise_worker.py")
    done = subprocess.run(
        [python, worker, work / "job.json"], capture_output=True, text=True, check=False, cwd=work, timeout=3600
    )
    if done.returncode != 0:
        raise BundleError(f"nvidia-modelopt failed:\n{done.stderr[-2000:]}\nMake its environment again.")
    return stored_quantised(onnx.load(job["out"]))


def _save(model: onnx.ModelProto, path: Path) -> None:
    large = model.ByteSize() > LARGEST_INLINE
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data" if large else None)


def _finish(config: QuantiseConfig, manifest: Manifest, folder: Path, measured: tuple[float, float]) -> Manifest:
    changed, drawn = measured
    if not changed <= LARGEST_CHANGE * drawn:
        raise BundleError(
            f"{config.scheme} changes chunks by {changed:.4f} on average, above {LARGEST_CHANGE} of the {drawn:.4f} "
            "between two noise seeds: no bundle was written. Try --keep-prefill-kv, or more --observations."
        )
    for path in folder.iterdir():
        path.chmod(0o644)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    before = sum((config.bundle / name).stat().st_size for name in manifest.files)
    quantised = dataclasses.replace(
        manifest,
        weights=None,
        files=files,
        quantisation={
            "scheme": config.scheme,
            "tool": f"nvidia-modelopt, ONNX post-training, {METHODS[config.scheme]} calibration",
            "layers": {name: _nodes(name, config)[0] for name in _graphs(config.scheme)},
            "observations": config.observations,
            "timesteps": manifest.n_steps,
            "chunk_change": changed,
            "seed_difference": drawn,
            "executed": EXECUTED[config.scheme],
            "smaller": before / sum((folder / name).stat().st_size for name in files),
            "source_checkpoint": manifest.checkpoint.get("sha256"),
        },
    )
    quantised.write(folder)
    read_manifest(folder).check_files(folder)
    return quantised


def _python() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.is_file():
        raise ConfigError(
            f"nvidia-modelopt's environment {ENVIRONMENT.name} is missing in {ENVIRONMENT.parent}: run "
            "`make quantise-environment` there."
        )
    return python


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam quantise``."""
    config = tyro.cli(QuantiseConfig, args=argv, prog="wam quantise")
    done = quantise_bundle(config).quantisation
    print(f"bundle:  {config.out} ({done['scheme']}, {done['smaller']:.2f} times smaller than {config.bundle})")
    print(
        f"gate:    chunks change by {done['chunk_change']:.4f}; two noise seeds differ by {done['seed_difference']:.4f}"
    )
    print(f"run on:  {done['executed']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
