"""The checks of ``wam verify``: each stage against the reference, and the whole chunk against the spread of the noise.

A chunk differs from seed to seed by what the model leaves open; a backend whose error is well below that changes
nothing a robot could notice. Stages are judged more strictly, by the rounding of their type, so that an error is
charged to the graph that makes it before errors add up.

Shape legend: H chunk length, A action width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from policy.backend import Backend
from policy.stages import Reference, StageRunner, example_inputs, run_chunk
from wam.manifest import Manifest
from wam.sigmas import sigma_schedule

__all__ = ["FAIL", "NOTE", "NOT_RUN", "PASS", "Check", "chunk_check", "golden_check", "layer_check", "stage_checks"]

PASS, FAIL, NOT_RUN, NOTE = "pass", "FAIL", "not run", "note"

STAGE_TOLERANCE = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}  # of the largest value, if that is above 1
SEED_SHARE = 0.5  # largest error of a chunk, as a share of the difference between two noise seeds
STAGE_SAMPLES = 2  # random inputs per stage
CHUNK_SAMPLES = 4  # random observations, each with two noise seeds
FIRST_SEED = 2000  # away from the seeds of the export's own parity report


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report."""

    backend: str  # whom it is about; "" for the machine or the bundle
    name: str  # what was checked
    status: str  # PASS, FAIL, NOT_RUN or NOTE
    value: float | None = None  # what was measured
    limit: float | None = None  # what it may be at most
    detail: str = ""  # in words


def stage_checks(backend: str, stages: StageRunner, reference: Reference, manifest: Manifest) -> list[Check]:
    """Compares every stage with the reference, on the reference's own inputs."""
    worst = dict.fromkeys(manifest.graphs, 0.0)
    for sample in range(STAGE_SAMPLES):
        values = example_inputs(manifest, FIRST_SEED + sample)
        for name, graph in manifest.graphs.items():
            expected = reference.stages.run_stage(name, values, graph)
            error = _difference(expected, stages.run_stage(name, values, graph))
            worst[name] = float(np.maximum(worst[name], error))  # NaN stays NaN, unlike with Python's max
            values |= expected
    if manifest.quantisation:  # runtimes round quantised products differently; the chunk decides
        return [
            Check(
                backend=backend, name=f"stage {name}", status=NOTE, value=error, detail=f"quantised; {reference.name}"
            )
            for name, error in worst.items()
        ]
    limit = STAGE_TOLERANCE[manifest.dtype]
    return [
        _judge(
            Check(backend=backend, name=f"stage {name}", status=PASS, value=error, limit=limit, detail=reference.name)
        )
        for name, error in worst.items()
    ]


def chunk_check(backend: str, runs: Backend, reference: Reference, manifest: Manifest, n_steps: int) -> Check:
    """Compares whole chunks with the reference's, and their error with the difference between two noise seeds."""
    sigmas = sigma_schedule(n_steps, manifest.model.action_shift)
    shape = (manifest.chunk_length, manifest.model.action_dim)
    instruction = manifest.graphs["prompt"].inputs[0].name
    images, proprio = (tensor.name for tensor in manifest.graphs["context"].inputs[:2])
    shares = []
    for sample in range(CHUNK_SAMPLES):
        start = example_inputs(manifest, FIRST_SEED + sample)
        rng = np.random.default_rng(FIRST_SEED + sample)
        noises = rng.standard_normal((2, *shape), dtype=np.float32)
        expected = [run_chunk(reference.stages, manifest, start, noise, sigmas) for noise in noises]
        runs.encode_context(
            *_seen(start[images], start[proprio], manifest),
            runs.encode_prompt(_without_batch(start[instruction], manifest)),
        )
        found = [runs.denoise(noise, sigmas) for noise in noises]
        shares.append(_share_of_spread(np.stack(expected), np.stack(found), manifest.dtype))
    value, detail = max(shares, key=lambda share: np.nan_to_num(share[0], nan=np.inf))
    detail += f", {n_steps} step(s), against {reference.name}"
    return _judge(Check(backend=backend, name="chunk", status=PASS, value=value, limit=SEED_SHARE, detail=detail))


def golden_check(backend: str, runs: Backend, golden: Mapping[str, np.ndarray], manifest: Manifest) -> Check:
    """Compares the chunks of the bundle's own sample with what PyTorch made of it when it was exported."""
    images, proprio, instruction = (golden[name] for name in ("images", "proprio", "instruction"))
    runs.encode_context(
        *_seen(images, proprio, manifest),
        runs.encode_prompt(_without_batch(instruction, manifest)),
    )
    sigmas = [float(sigma) for sigma in golden["sigmas"]]
    found = np.stack([runs.denoise(noise, sigmas) for noise in golden["noise"]])
    value, detail = _share_of_spread(golden["chunks"], found, manifest.dtype)
    detail += f", {len(sigmas) - 1} step(s), against PyTorch at export"
    return _judge(
        Check(backend=backend, name="golden chunk", status=PASS, value=value, limit=SEED_SHARE, detail=detail)
    )


def layer_check(backend: str, counts: Mapping[str, Mapping[str, int]], dtype: str) -> Check:
    """Says whether attention became one kernel each time; float32 attention is not fused by TensorRT."""
    total = {key: sum(of[key] for of in counts.values()) for key in ("layers", "fused_attention", "bare_softmax")}
    detail = (
        f"{total['layers']} layers, {total['fused_attention']} of them fused attention, "
        f"{total['bare_softmax']} a softmax on its own"
    )
    slow = dtype != "float32" and total["bare_softmax"] > 0
    if slow:
        detail += ": attention was not fused everywhere, which costs time and no accuracy"
    return Check(backend=backend, name="layers", status=NOTE if slow else PASS, detail=detail)


def _share_of_spread(expected: np.ndarray, found: np.ndarray, dtype: str) -> tuple[float, str]:
    """Largest error of (S, H, A) chunks as a share of the difference between the first two seeds, and in words."""
    spread = float(np.abs(expected[0] - expected[1]).max())
    error = float(np.abs(expected - found).max())
    # A model that ignores its noise is held to the rounding of its type.
    share = error / max(spread, STAGE_TOLERANCE[dtype])
    return share, f"largest error {error:.1e}, two seeds differ by {spread:.1e}"


def _judge(check: Check) -> Check:
    good = check.value is not None and check.limit is not None and check.value <= check.limit
    return check if good else Check(**{**vars(check), "status": FAIL})


def _difference(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Largest difference over all outputs, as a share of an output's largest value where that is above 1."""
    shares = []
    for name, array in expected.items():
        scale = max(1.0, float(np.abs(array).max(initial=0.0)))
        shares.append(float(np.abs(array - found[name].reshape(array.shape)).max(initial=0.0)) / scale)
    return float(np.max(shares))


def _seen(images: np.ndarray, proprio: np.ndarray, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """(K, height, width, 3) and (P,), or with an axis of instants in front for a model that looks back on several."""
    several = int(manifest.model.n_instants > 1)
    return images.reshape(images.shape[-4 - several :]), proprio.reshape(proprio.shape[-1 - several :])


def _without_batch(instruction: np.ndarray, manifest: Manifest) -> np.ndarray:
    rank = 1 if manifest.graphs["prompt"].inputs[0].dtype == "int64" else 2  # (T,) word ids or (T, W) embeddings
    return instruction.reshape(instruction.shape[-rank:])
