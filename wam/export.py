"""``wam export``: checkpoint → policy bundle, the folder that is all a robot needs.

The bundle is built beside its final place, its graphs are compared with the model, and only a bundle that agrees is
renamed into place: after an error or Ctrl-C there is nothing, or the bundle that was there before.
"""

import logging
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tyro
from safetensors import SafetensorError
from safetensors.torch import save_file

import wam
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.errors import BundleError, ConfigError
from wam.graphs import example_inputs, export_graph, stages
from wam.manifest import MANIFEST_NAME, GraphSpec, Manifest, file_sha256
from wam.parity import check_parity, measure_parity

__all__ = ["ExportConfig", "export_bundle", "main"]

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
VERSIONED = ("torch", "onnx", "onnxruntime", "numpy", "safetensors")
TRACE_SEED = 0  # of the example inputs; graphs do not depend on it


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Turn a checkpoint into a policy bundle: three ONNX graphs, weights, and a manifest with a parity report."""

    checkpoint: Path  # run folder of `wam train`, its checkpoints/last, or one checkpoint
    out: Path  # folder of the bundle; must not exist yet
    n_steps: int = 4  # denoising steps the robot takes unless told otherwise; each costs as much again
    overwrite: bool = False  # replace the bundle that is already at --out

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise ConfigError(f"n_steps is {self.n_steps} but a chunk needs at least 1 denoising step.")


def export_bundle(checkpoint: Checkpoint, out: Path, *, n_steps: int = 4, overwrite: bool = False) -> Manifest:
    """Writes a bundle, atomically.

    Args:
        checkpoint: Loaded weights with their configuration, transforms and robot.
        out: The new folder; its parent is made if missing.
        n_steps: Default number of denoising steps.
        overwrite: Replace an existing bundle. A folder that is not a bundle is never replaced.

    Returns:
        The manifest that was written.

    Raises:
        BundleError: ``out`` is taken, the disk is full, or the graphs do not compute what the model does.
    """
    _check_target(out, overwrite)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial_", dir=out.parent))
    except OSError as error:
        raise BundleError(f"bundle {out} cannot be written: {error}.") from error
    try:
        partial.chmod(0o755)  # mkdtemp makes it private; a bundle is read by the robot's user
        manifest = _build(checkpoint, partial, n_steps)
        _move_into_place(partial, out)
    except (OSError, SafetensorError) as error:  # a full disk is an OSError to Python and the other to safetensors
        raise BundleError(f"bundle {out} cannot be written ({error}): free some disk space and try again.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not (out / MANIFEST_NAME).is_file():
        raise BundleError(f"{out} exists and is not a policy bundle: it is left alone, choose another --out.")
    if not overwrite:
        raise BundleError(f"{out} already holds a bundle: add --overwrite to replace it, or choose another --out.")


def _build(checkpoint: Checkpoint, folder: Path, n_steps: int) -> Manifest:
    model = checkpoint.model.float().cpu().eval()
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS_FILE)
    parts = stages(model)
    tensors = example_inputs(model.config, TRACE_SEED)
    graphs: dict[str, GraphSpec] = {}
    for stage in parts:
        logger.info("exporting %s", stage.name)
        graphs[stage.name] = export_graph(stage, tensors, folder / f"{stage.name}.onnx")
        tensors |= stage(tensors)
    parity = measure_parity(model, parts, graphs, folder, sorted({1, n_steps}))
    check_parity(parity)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner may read
    robot = checkpoint.robot
    manifest = Manifest(
        robot=robot,
        robot_fingerprint=robot.fingerprint(),
        model=checkpoint.config,
        transforms=checkpoint.transforms,
        cameras=robot.camera_names,
        chunk_length=checkpoint.config.chunk_length,
        control_dt=robot.control_dt,
        n_steps=n_steps,
        graphs=graphs,
        weights=WEIGHTS_FILE,
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        checkpoint={
            "name": checkpoint.path.name,
            "sha256": checkpoint.sha256(),
            "step": checkpoint.meta.get("step"),
        },
        versions={"world_action_model": wam.__version__} | {name: metadata.version(name) for name in VERSIONED},
        parity=parity,
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
    checkpoint = load_checkpoint(config.checkpoint)
    manifest = export_bundle(checkpoint, config.out, n_steps=config.n_steps, overwrite=config.overwrite)
    worst = max([*manifest.parity.graphs.values(), *manifest.parity.chunk.values()])
    size_mb = sum(path.stat().st_size for path in config.out.iterdir()) / 1e6
    print(f"bundle:  {config.out} ({size_mb:.1f} MB, robot '{manifest.robot.name}', {manifest.n_steps} steps)")
    print(f"parity:  {worst:.1e} largest difference, {manifest.parity.runtime} against {manifest.parity.reference}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
