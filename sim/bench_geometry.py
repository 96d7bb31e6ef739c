"""``wam bench geometry``: how fast a model's geometry runs on this GPU, with random weights and nothing to train first.

The core is timed from encoded observation to action chunk: our eager torch, our compiled torch (context and all steps
in one CUDA graph) and LeRobot's FastWAM core, eager as it is released, in the same run and the same type, all in turns.
Text and autoencoder are the same frozen networks on both sides and stay outside; a last row adds the autoencoder to
ours. Beside the times stands the floor of the device, computed. Where there is no GPU the rows say so.
"""

import functools
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from policy.roofline import DEVICES
from policy.timing import Contender, time_interleaved, timing_row
from sim.bench_floor import floors_ms
from sim.bench_report import floor_lines, geometry_table, latency_plot
from sim.provenance import provenance
from wam.config import ModelConfig, preset, preset_names
from wam.errors import ConfigError, unknown_name
from wam.robot import load_robot

__all__ = ["GeometryConfig", "geometry_config", "main", "run_geometry"]

logger = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class GeometryConfig:
    """Time a model's geometry with random weights on this GPU, beside LeRobot's FastWAM core."""

    presets: tuple[str, ...] = ("wan5b",)  # model presets, one after the other
    layers: int = 0  # layers of both experts; 0: the preset's. Fewer make a quick look possible
    width: int = 0  # attention heads, and the video expert's width with them; 0: the preset's. For a look on a CPU
    robot: str = "sim6"  # robot name or file; gives cameras and action width
    dtype: str = "bfloat16"  # of the large matrix products
    n_steps: tuple[int, ...] = (10, 4, 1)  # denoising steps per chunk to time
    rounds: int = 50  # turns of each contender, each one cold call and four others
    device: str = "cuda"  # "cuda", or "cpu" for a look with a cut geometry
    device_floor: str = ""  # device whose floor is computed, such as orin; default: the one at hand
    lerobot: bool = True  # time LeRobot's FastWAM core too
    autoencoder: bool = True  # time ours with the video autoencoder too, from images
    seed: int = 0  # of weights, inputs and order
    out: Path = Path("runs/bench_geometry")  # folder for results.json and latency.png

    def __post_init__(self) -> None:
        for kind, name, valid in (
            *(("preset", name, preset_names()) for name in self.presets),
            ("dtype", self.dtype, DTYPES),
            ("device", self.device, ("cuda", "cpu")),
            ("device", self.device_floor or "h100", DEVICES),
        ):
            if name not in valid:
                raise ConfigError(unknown_name(kind, name, valid))
        if self.rounds < 1 or not self.n_steps or min(self.n_steps) < 1 or self.layers < 0 or self.width < 0:
            raise ConfigError("rounds and n_steps must be at least 1, layers and width 0 or more.")


def run_geometry(config: GeometryConfig, preset_name: str) -> dict[str, Any]:
    """Measures one preset and writes ``results.json`` and ``latency.png`` into a folder of its name.

    Returns:
        The content of ``results.json``; a row that was not run says why.
    """
    import torch  # not with this module: the command's help needs none of it

    geometry = geometry_config(config, preset_name)
    reason = "" if config.device == "cpu" or torch.cuda.is_available() else "no CUDA device"
    rows: dict[str, dict[str, Any]] = {}
    makers = _makers(config, geometry)
    if reason:
        rows = {name: {"what": name, "not_run": reason} for name in makers}
    contenders: list[Contender] = []
    for name, make in {} if reason else makers.items():
        try:
            contenders += make()
        except (ImportError, torch.OutOfMemoryError) as error:
            rows[name] = {"what": name, "not_run": str(error).splitlines()[0]}
    times = time_interleaved(contenders, config.rounds, config.seed) if contenders else []
    rows |= {one.name: timing_row(one, measured) for one, measured in zip(contenders, times, strict=True)}
    results = {
        **provenance("torch"),
        "geometry": geometry.to_dict(),
        "dtype": config.dtype,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "rounds": config.rounds,
        "rows": rows,
        "floors_ms": floors_ms(geometry, config.dtype, config.n_steps, config.device_floor),
    }
    out = config.out / preset_name
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    if times:
        latency_plot(results, out / "latency.png")
    return results


def geometry_config(config: GeometryConfig, preset_name: str) -> ModelConfig:
    """Returns the geometry that is timed: the preset, cut where that was asked for."""
    geometry = preset(preset_name, load_robot(config.robot))
    if config.layers:
        geometry = replace(geometry, num_layers=config.layers)
    if config.width:
        width = config.width * geometry.head_dim
        share = width / geometry.video_width
        widths = {"video_width": width, "action_width": width if geometry.action_register else geometry.action_width}
        if geometry.video_ffn_width:
            widths["video_ffn_width"] = int(share * geometry.video_ffn_width)
        geometry = replace(geometry, num_heads=config.width, **widths)
    return geometry


def _makers(config: GeometryConfig, geometry: ModelConfig) -> dict[str, Callable[[], Sequence[Contender]]]:
    from sim.bench_cores import lerobot_contenders, our_contenders, random_model  # with torch

    # One set of weights for all of ours: three would not fit where one does.
    model = functools.cache(lambda: random_model(geometry, config.dtype, config.device, config.seed))
    ours = functools.partial(our_contenders, model, config.device, config.n_steps, config.seed)
    makers: dict[str, Callable[[], Sequence[Contender]]] = {
        "ours, eager": lambda: ours(compiled=False, images=False),
        "ours, compiled": lambda: ours(compiled=True, images=False),
    }
    if config.lerobot and not geometry.action_register and geometry.tokenizer == "vae":
        makers["LeRobot FastWAM, eager"] = lambda: lerobot_contenders(
            geometry, config.dtype, config.device, config.n_steps, config.seed
        )
    if config.autoencoder and geometry.tokenizer == "vae" and not geometry.image_width:
        makers["ours, compiled, from images"] = lambda: ours(compiled=True, images=True)
    return makers


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam bench geometry``."""
    config = tyro.cli(GeometryConfig, args=argv, prog="wam bench geometry")
    for name in config.presets:
        results = run_geometry(config, name)
        Console().print(geometry_table(results))
        for line in floor_lines(results):
            print(line)
        print(f"results: {config.out / name / 'results.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
