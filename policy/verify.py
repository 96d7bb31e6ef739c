"""``wam verify``: whether a bundle runs right and fast enough on this machine, on every backend it has.

Environment, engines (built where a GPU is and none fit), each stage against a reference, whole chunks against the
spread of the noise, TensorRT's layers, and latency of all backends in turns. One JSON report; exit status 0 when all
that could run passed, 1 when something failed, 2 when the bundle or an argument is wrong.
"""

import dataclasses
import functools
import json
import math
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import wam
from policy.errors import PolicyError
from policy.load import BACKENDS
from policy.runner import Policy
from policy.stages import Reference, reference_of
from policy.tensorrt_backend import TensorRtBackend
from policy.tensorrt_layers import count_layers
from policy.timing import TURN_CALLS, Contender, percentiles_ms, time_interleaved
from policy.verify_backends import Candidate, open_candidate
from policy.verify_checks import FAIL, NOT_RUN, PASS, Check, chunk_check, golden_check, layer_check, stage_checks
from wam.doctor import find_gpu, find_system, run_probe
from wam.errors import unknown_name
from wam.manifest import GOLDEN_FILE, Manifest, read_manifest
from wam.spec import Observation
from wam.text import listed

__all__ = ["VerifyConfig", "main", "verify"]

CONTROL_LOOP_MS = 1000.0 / 7.0  # a chunk in less keeps a control loop at 7 Hz or faster
LONGEST_TIMING_S = 600.0  # of one backend; a large model on a CPU would take hours
DEFAULT_BACKENDS = ("tensorrt", "onnx", "torch")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a policy bundle on this machine: right results, fused layers, latency. Exit status 1 when a check fails."""

    bundle: Annotated[Path, tyro.conf.Positional]  # policy bundle of `wam export`
    backends: tuple[str, ...] = DEFAULT_BACKENDS  # to check; torch_compiled too where compiling may take minutes
    n_steps: int = 0  # denoising steps per chunk; 0: the bundle's
    runs: int = 200  # timed chunks of each backend, in turns; 0: no timing
    build: bool = True  # build TensorRT engines where a GPU is and none fit
    threads: int = 0  # CPU threads; 0: each backend's own choice
    out: Path = Path("runs/verify/report.json")  # the report

    def __post_init__(self) -> None:
        for name in self.backends:
            if name not in BACKENDS:
                raise PolicyError(unknown_name("backend", name, BACKENDS))
        if self.n_steps < 0 or self.runs < 0 or self.threads < 0:
            raise PolicyError(f"n_steps {self.n_steps}, runs {self.runs} and threads {self.threads} must be 0 or more.")


@dataclass(kw_only=True)
class _Findings:
    checks: list[Check] = field(default_factory=list)
    layers: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Runs every check and writes the report.

    Returns:
        The content of the report; ``passed`` is the verdict.

    Raises:
        WamError: The bundle or an option is wrong.
    """
    manifest = read_manifest(config.bundle)
    manifest.check_files(config.bundle)
    n_steps = config.n_steps or manifest.n_steps
    found = _Findings()
    reference = _open_reference(config.bundle, manifest, found)
    golden = _read_golden(config.bundle, manifest)
    candidates = []
    for name in config.backends:
        candidate, checks = open_candidate(
            name, config.bundle, manifest, build=config.build, threads=config.threads or None
        )
        found.checks += checks
        if candidate is not None:
            candidates.append(candidate)
            _check(candidate, reference, manifest, n_steps, found)
            if golden:
                found.checks.append(golden_check(name, candidate.backend, golden, manifest))
    if config.runs and candidates:
        _time(candidates, manifest, n_steps, config.runs, found)
    report = _report(config, manifest, n_steps, found)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(report, indent=2) + "\n")
    return report


def _open_reference(bundle: Path, manifest: Manifest, found: _Findings) -> Reference | None:
    try:
        return reference_of(bundle, manifest)
    except PolicyError as error:
        found.checks.append(Check(backend="", name="reference", status=NOT_RUN, detail=str(error)))
        return None


def _read_golden(bundle: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    """The bundle's own sample; empty where the model was too large to run when it was exported."""
    if GOLDEN_FILE not in manifest.files:
        return {}
    from safetensors.numpy import load_file  # not with this module: policy imports with numpy alone

    return load_file(bundle / GOLDEN_FILE)


def _check(
    candidate: Candidate, reference: Reference | None, manifest: Manifest, n_steps: int, found: _Findings
) -> None:
    name = candidate.name
    if reference is not None:
        if candidate.stages is not None:
            found.checks += stage_checks(name, candidate.stages, reference, manifest)
        found.checks.append(chunk_check(name, candidate.backend, reference, manifest, n_steps))
    if isinstance(candidate.backend, TensorRtBackend):
        layers = candidate.backend.layers()
        counts = {graph: count_layers(of) for graph, of in layers.items()}
        found.layers[name] = {
            graph: {**counts[graph], "names": [layer.name for layer in of]} for graph, of in layers.items()
        }
        found.checks.append(layer_check(name, counts, manifest.dtype))


def _time(candidates: Sequence[Candidate], manifest: Manifest, n_steps: int, runs: int, found: _Findings) -> None:
    observation = _observation(manifest)
    contenders = []
    for candidate in candidates:
        policy = Policy(manifest, candidate.backend, n_steps=n_steps)
        policy.warm_up()
        infer = functools.partial(policy.infer, observation, noise_seed=0)
        begun = time.perf_counter()
        infer()
        all_s = runs * (1 + TURN_CALLS) / TURN_CALLS * (time.perf_counter() - begun)
        if all_s > LONGEST_TIMING_S:
            detail = f"{runs} runs would take {all_s / 60:.0f} min: ask for fewer with --runs"
            found.checks.append(Check(backend=candidate.name, name="latency", status=NOT_RUN, detail=detail))
        else:
            contenders.append(Contender(name=candidate.name, what=candidate.name, device=policy.device, run=infer))
    loaded = {candidate.name: candidate.loaded_bytes for candidate in candidates}
    times = time_interleaved(contenders, math.ceil(runs / TURN_CALLS), seed=0, what="latency") if contenders else []
    for contender, measured in zip(contenders, times, strict=True):
        wall = percentiles_ms(measured.wall)
        found.latency[contender.name] = {
            "device": contender.device,
            "wall_ms": wall,
            "cold_ms": percentiles_ms(measured.cold),
            "cpu_ms": percentiles_ms(measured.cpu),
            "loaded_mb": loaded[contender.name] / 1e6,
            "fits_7_hz": wall["p99"] <= CONTROL_LOOP_MS,
        }


def _observation(manifest: Manifest) -> Observation:
    """Noise on every camera, a pose in the middle, an instruction: what is seen does not change the time."""
    robot = manifest.robot
    rng = np.random.default_rng(0)
    images = {
        camera.name: rng.integers(0, 256, (camera.height_px, camera.width_px, 3), dtype=np.uint8)
        for camera in robot.cameras
    }
    proprio = ((robot.lower + robot.upper) / 2).astype(np.float32)
    return Observation(images=images, proprio=proprio, task=(manifest.instructions or ("",))[0], stamp=0.0)


def _report(config: VerifyConfig, manifest: Manifest, n_steps: int, found: _Findings) -> dict[str, Any]:
    statuses = [check.status for check in found.checks]
    judged = [check for check in found.checks if check.name in {"chunk", "golden chunk"}]
    return {
        "passed": FAIL not in statuses and any(check.status == PASS for check in judged),
        "bundle": str(config.bundle),
        "robot": manifest.robot.name,
        "dtype": manifest.dtype,
        "n_steps": n_steps,
        "instructions": None if manifest.instructions is None else list(manifest.instructions),
        "environment": _environment(),
        "checks": [dataclasses.asdict(check) for check in found.checks],
        "latency": found.latency,
        "layers": found.layers,
    }


def _environment() -> dict[str, str]:
    found = {"system": find_system(), "GPU": find_gpu()}
    found |= {name: run_probe(name) for name in ("onnxruntime", "tensorrt", "torch")}
    versions = {"world_action_model": wam.__version__, "python": platform.python_version(), "numpy": np.__version__}
    return versions | {name: f"{finding.status}: {finding.value}" for name, finding in found.items()}


def _print(report: dict[str, Any], console: Console) -> None:
    checks = Table("backend", "check", "status", "value", "limit", "", box=None, pad_edge=False)
    for check in report["checks"]:
        numbers = ["" if check[key] is None else f"{check[key]:.1e}" for key in ("value", "limit")]
        checks.add_row(check["backend"], check["name"], check["status"], *numbers, check["detail"])
    console.print(checks)
    if report["latency"]:
        title = f"\nmilliseconds per chunk, {report['n_steps']} step(s), backends in turns"
        latency = Table("backend", "p50", "p95", "p99", "max", "cold", "CPU", "7 Hz", "on", title=title, box=None)
        latency.title_justify = "left"
        for name, row in report["latency"].items():
            wall = [f"{row['wall_ms'][key]:.2f}" for key in ("p50", "p95", "p99", "max")]
            other = [f"{row[key]['p50']:.2f}" for key in ("cold_ms", "cpu_ms")]
            latency.add_row(name, *wall, *other, "yes" if row["fits_7_hz"] else "no", row["device"])
        console.print(latency)


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam verify``."""
    config = tyro.cli(VerifyConfig, args=argv, prog="wam verify")
    report = verify(config)
    _print(report, Console())
    print(f"\ntold:    {listed(report['instructions'])}")
    print(f"verdict: {'passed' if report['passed'] else 'FAILED'}\nreport:  {config.out}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
