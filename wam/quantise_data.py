"""Calibration data for quantisation, and chunks to judge its result by: a bundle's own graphs run on a dataset.

Activations differ from step to step of the denoising loop, so a graph is calibrated on what it reads at every one of
the N steps, not only at the first. Half of the observations calibrate, the other half judges.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from wam.batches import make_batch
from wam.dataset import load_episodes
from wam.dataset_names import ReadAs
from wam.errors import ConfigError
from wam.manifest import Manifest
from wam.sigmas import sigma_schedule

__all__ = ["Chain", "Sample", "chunk_ratio", "dataset_samples"]

JUDGED_SEEDS = (0, 1)  # noise draws of every judged observation; their difference is the yardstick


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One observation as the graphs take it."""

    instruction: np.ndarray
    images: np.ndarray
    proprio: np.ndarray


def dataset_samples(dataset: Path, manifest: Manifest, count: int, cache: Path) -> tuple[list[Sample], list[Sample]]:
    """Draws observations spread over a dataset.

    Args:
        dataset: Folder of a LeRobot dataset of the bundle's robot.
        manifest: Of the bundle.
        count: Observations to calibrate with; as many more judge.
        cache: File for the decoded frames.

    Returns:
        (to calibrate with, to judge with), taken in turn.

    Raises:
        ConfigError: The dataset has fewer frames.
    """
    # A bundle does not say what was said of its datasets: another aspect is logged, not refused
    told = ReadAs(any_aspect=True)
    episodes = load_episodes(dataset, manifest.robot, manifest.model.image_size_px, cache=cache, read_as=told)
    if len(episodes.proprio) < 2 * count:
        raise ConfigError(
            f"dataset {dataset} has {len(episodes.proprio)} frames but {2 * count} are needed: lower --observations."
        )
    frames = np.linspace(0, len(episodes.proprio) - 1, 2 * count).round().astype(np.int64)
    batch = make_batch(episodes, frames, manifest.model, manifest.transforms)
    samples = [
        Sample(
            instruction=batch.token_ids[place].numpy(),
            images=batch.seen_images[place].numpy(),
            proprio=batch.seen_proprio[place].numpy(),
        )
        for place in range(len(frames))
    ]
    return samples[::2], samples[1::2]


class Chain:
    """The graphs of a bundle, run one after the other on the CPU.

    Args:
        bundle: Folder of the bundle.
        manifest: Its manifest.
        emulate_fp8: The graphs hold FP8 values, which the CPU computes one by one and without fusing anything.
    """

    def __init__(self, bundle: Path, manifest: Manifest, *, emulate_fp8: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        if manifest.quantisation.get("scheme") == "fp8" or emulate_fp8:  # its rewrites do not know FP8
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._graphs = manifest.graphs
        self._sessions = {
            name: onnxruntime.InferenceSession(str(bundle / graph.file), options, providers=["CPUExecutionProvider"])
            for name, graph in manifest.graphs.items()
        }
        self._sigmas = sigma_schedule(manifest.n_steps, manifest.model.action_shift)
        self._shape = (manifest.chunk_length, manifest.model.action_dim)

    def chunk(
        self, sample: Sample, seed: int, record: Mapping[str, dict[str, list[np.ndarray]]] | None = None
    ) -> np.ndarray:
        """Denoises one chunk.

        Args:
            sample: The observation.
            seed: Seed of the noise.
            record: Graph name → input name → list; what those graphs read is appended.

        Returns:
            (H, A) normalised chunk.
        """
        values = {self._graphs["prompt"].inputs[0].name: sample.instruction}
        values |= {"images": sample.images, "proprio": sample.proprio}
        values["actions"] = np.random.default_rng(seed).standard_normal(self._shape, dtype=np.float32)
        for name in ("prompt", "context"):
            values |= self._run(name, values, record)
        for pair in itertools.pairwise(self._sigmas):
            levels = (np.full(self._shape[:1], sigma, dtype=np.float32) for sigma in pair)
            values |= dict(zip(("sigma", "sigma_next"), levels, strict=True))
            for name in ("levels", "denoise"):
                values |= self._run(name, values, record)
            values["actions"] = values["actions_next"]
        return values["actions"]

    def _run(self, name: str, values: Mapping[str, np.ndarray], record: Mapping | None) -> dict[str, np.ndarray]:
        graph = self._graphs[name]
        feeds = {tensor.name: values[tensor.name] for tensor in graph.inputs}
        if record is not None and name in record:
            for key, value in feeds.items():
                record[name].setdefault(key, []).append(value)
        found = self._sessions[name].run(None, feeds)
        return {tensor.name: value for tensor, value in zip(graph.outputs, found, strict=True)}


def chunk_ratio(before: Chain, after: Chain, samples: Sequence[Sample]) -> tuple[float, float]:
    """Compares two bundles on the same observations and noise.

    Returns:
        (mean absolute difference of their chunks, the same between two noise draws of the first bundle).
    """
    changed, drawn = [], []
    for sample in samples:
        chunks = [before.chunk(sample, seed) for seed in JUDGED_SEEDS]
        changed += [
            np.abs(chunk - after.chunk(sample, seed)).mean() for chunk, seed in zip(chunks, JUDGED_SEEDS, strict=True)
        ]
        drawn.append(np.abs(chunks[0] - chunks[1]).mean())
    return float(np.mean(changed)), float(np.mean(drawn))
