"""``wam export``: checkpoint → policy bundle, the folder that is all a robot needs.

The bundle is built beside its final place, its graphs pass the operator gate and are compared with the model, and only
a bundle that agrees is renamed into place: after an error or Ctrl-C there is nothing, or the bundle that was there
before. Weights stream from file to file, so the size of a model does not matter (``wam.bundle_graphs``).
"""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tyro
from safetensors import SafetensorError

import wam
from wam.bundle_graphs import write_graphs
from wam.bundle_parity import bundle_parity
from wam.checkpoint import CheckpointInfo, describe_checkpoint
from wam.errors import BundleError, ConfigError, unknown_name
from wam.export_source import ExportSource, checkpoint_source, untrained_source
from wam.manifest import MANIFEST_NAME, Manifest, file_sha256
from wam.operator_gate import TARGETS
from wam.precision import DTYPES
from wam.robot import load_robot
from wam.text import listed

__all__ = ["ExportConfig", "export_bundle", "main"]

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
VERSIONED = ("torch", "onnx", "onnxruntime", "numpy", "safetensors")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Turn a checkpoint into a policy bundle: ONNX graphs, weights, and a manifest with a parity report."""

    checkpoint: Path | None = None  # run folder of `wam train`, its checkpoints/last, or one checkpoint
    out: Path | None = None  # folder of the bundle; must not exist yet
    dtype: str = "float32"  # of the large matrix products: float32, float16 or bfloat16 (not for ONNX Runtime's CPU)
    n_steps: int = 4  # denoising steps the robot takes unless told otherwise; each costs as much again
    threads: int | None = None  # CPU threads the bundle asks for; left out, the robot's machine decides
    overwrite: bool = False  # replace the bundle that is already at --out
    untrained: str = ""  # export random weights of this preset in place of a checkpoint, to measure its speed
    robot: str = ""  # robot name or file; with --untrained, and to check a checkpoint's
    seed: int = 0  # of the random weights
    wan_folder: Path | None = None  # Wan weights in diffusers' form, for a model that sees through Wan's autoencoder
    tensorrt: tuple[str, ...] = TARGETS  # TensorRT versions that must be able to read the graphs
    check_only: bool = False  # trace the graphs and check their operators, write nothing

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ConfigError(f"n_steps is {self.n_steps} but a chunk needs at least 1 denoising step.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads} but must be at least 1, or left out.")
        if self.dtype not in DTYPES:
            raise ConfigError(unknown_name("dtype", self.dtype, DTYPES))
        if self.out is None and not self.check_only:
            raise ConfigError("give --out, the folder of the bundle, or --check-only.")
        for target in self.tensorrt:
            if target not in TARGETS:
                raise ConfigError(unknown_name("TensorRT version", target, TARGETS))
        if (self.checkpoint is None) == (self.untrained == ""):
            raise ConfigError("give either --checkpoint, what is to be exported, or --untrained with a preset's name.")
        if self.untrained and not self.robot:
            raise ConfigError("--untrained needs --robot: how many axes and cameras the model has depends on it.")


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What a bundle is to be like."""

    dtype: str = "float32"  # of the large matrix products
    n_steps: int = 4  # default number of denoising steps
    threads: int | None = None  # CPU threads; None leaves it to the machine
    tensorrt: tuple[str, ...] = TARGETS  # versions that must be able to read the graphs


def export_bundle(
    checkpoint: CheckpointInfo | ExportSource,
    out: Path,
    *,
    n_steps: int = 4,
    overwrite: bool = False,
    dtype: str = "float32",
    threads: int | None = None,
    tensorrt: tuple[str, ...] = TARGETS,
) -> Manifest:
    """Writes a bundle, atomically.

    Args:
        checkpoint: What is exported; the weights are read from its files.
        out: The new folder; its parent is made if missing.
        n_steps: Default number of denoising steps.
        overwrite: Replace an existing bundle. A folder that is not a bundle is never replaced.
        dtype: Type of the large matrix products, a name of ``wam.precision.DTYPES``.
        threads: CPU threads the bundle asks for; None leaves it to the machine.
        tensorrt: TensorRT versions that must be able to read the graphs, of ``wam.operator_gate.TARGETS``.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: ``out`` is taken, the disk is full, an operator is not allowed, or the graphs do not compute what
            the model does.
    """
    source = checkpoint if isinstance(checkpoint, ExportSource) else checkpoint_source(checkpoint)
    options = BundleOptions(dtype=dtype, n_steps=n_steps, threads=threads, tensorrt=tensorrt)
    with new_bundle(out, overwrite) as partial:
        return _build(source, partial, options)


@contextlib.contextmanager
def new_bundle(out: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to build a bundle in, and moves it to ``out`` when nothing was raised.

    Raises:
        BundleError: ``out`` is taken, or the disk is full.
    """
    _check_target(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial_", dir=out.parent))
    except OSError as error:
        raise BundleError(f"bundle {out} cannot be written: {error}.") from error
    try:
        partial.chmod(0o755)  # mkdtemp makes it private; a bundle is read by the robot's user
        yield partial
        _move_into_place(partial, out)
    except (OSError, SafetensorError) as error:  # a full disk is an OSError to Python and the other to safetensors
        raise BundleError(f"bundle {out} cannot be written ({error}): free some disk space and try again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not (out / MANIFEST_NAME).is_file():
        raise BundleError(f"{out} exists and is not a policy bundle: it is left alone, choose another --out.")
    if not overwrite:
        raise BundleError(f"{out} already holds a bundle: add --overwrite to replace it, or choose another --out.")


def _build(source: ExportSource, folder: Path, options: BundleOptions) -> Manifest:
    graphs = write_graphs(
        source.config,
        source.weights,
        folder,
        dtype=options.dtype,
        weights_file=WEIGHTS_FILE,
        targets=options.tensorrt,
        vae=source.vae,
    )
    parity = bundle_parity(source, graphs, folder, options.dtype, sorted({1, options.n_steps}))
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner may read
    robot = source.robot
    manifest = Manifest(
        robot=robot,
        robot_fingerprint=robot.fingerprint(),
        model=source.config,
        transforms=source.transforms,
        cameras=robot.camera_names,
        chunk_length=source.config.chunk_length,
        control_dt=robot.control_dt,
        n_steps=options.n_steps,
        dtype=options.dtype,
        threads=options.threads,
        graphs=graphs,
        weights=WEIGHTS_FILE,
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        checkpoint=source.origin,
        versions={"world_action_model": wam.__version__} | {name: metadata.version(name) for name in VERSIONED},
        parity=parity,
        quantisation={},
    )
    manifest.write(folder)
    # Reading it back is the robot's first act: what it would refuse must not leave this machine.
    Manifest.from_dict(manifest.to_dict(), source=str(folder / MANIFEST_NAME)).check_files(folder)
    return manifest


def _move_into_place(partial: Path, out: Path) -> None:
    if not out.exists():
        os.replace(partial, out)
        return
    old = partial.with_name(f"{partial.name}_old")
    os.replace(out, old)
    try:
        os.replace(partial, out)
    except BaseException:  # Ctrl-C too: whatever stops this, the old bundle goes back
        os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam export``."""
    config = tyro.cli(ExportConfig, args=argv, prog="wam export")
    source = _source(config)
    if config.check_only:
        return _check_only(source, config)
    manifest = export_bundle(
        source,
        config.out,
        n_steps=config.n_steps,
        overwrite=config.overwrite,
        dtype=config.dtype,
        threads=config.threads,
        tensorrt=config.tensorrt,
    )
    parity = manifest.parity
    worst = max([*parity.graphs.values(), *parity.chunk.values()])
    size_mb = sum(path.stat().st_size for path in config.out.iterdir()) / 1e6
    print(f"bundle:  {config.out} ({size_mb:.1f} MB, robot '{manifest.robot.name}', {manifest.n_steps} steps)")
    print(f"told:    {listed(manifest.instructions)}")
    print(f"parity:  {worst:.1e} largest difference, {parity.runtime} against {parity.reference}")
    print(f"         {parity.graph_dtype} graphs, layers: {parity.layers}; the bundle is {manifest.dtype}")
    return 0


def _check_only(source: ExportSource, config: ExportConfig) -> int:
    with tempfile.TemporaryDirectory() as folder:
        graphs = write_graphs(
            source.config,
            source.weights,
            Path(folder),
            dtype=config.dtype,
            targets=config.tensorrt,
            values=False,
            vae=source.vae,
        )
    print(f"graphs:   {', '.join(graphs)} ({config.dtype}), nothing was written")
    print(f"TensorRT: {', '.join(config.tensorrt)} read every operator")
    return 0


def _source(config: ExportConfig) -> ExportSource:
    robot = load_robot(config.robot) if config.robot else None
    if config.untrained:
        return untrained_source(config.untrained, robot, config.seed)
    return checkpoint_source(describe_checkpoint(config.checkpoint, robot=robot), config.wan_folder)


if __name__ == "__main__":
    sys.exit(main())
