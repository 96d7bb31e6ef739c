"""wam bench: interleaved timing on fake contenders, the ratio and the report, and one small real run."""

import dataclasses
import json
import time

import numpy as np
import pytest
from rich.console import Console

from policy.timing import TURN_CALLS, Contender, time_interleaved
from sim.bench import BenchConfig, main, run_bench
from sim.bench_contenders import act_contender, default_backends, memory_bytes
from sim.bench_report import device_line, floor_lines, latency_plot, results_table
from tests.fake_tensorrt import install, with_engines
from wam.errors import BundleError, ConfigError, RobotSpecError
from wam.manifest import read_manifest
from wam.robot import load_robot


def make_contender(name: str, run, before=None) -> Contender:
    return Contender(name=name, what=f"row {name}", device="cpu, 1 thread(s)", run=run, before=before)


def make_results() -> dict:
    cold = {"p50": 6.0}
    wall = {"p50": 2.0, "p95": 3.0, "p99": 4.0, "max": 5.0, "count": 9}
    rows = {
        name: {
            "what": f"row {name}",
            "device": "cpu, 1 thread(s)",
            "wall_ms": wall,
            "cpu_ms": wall,
            "cold_ms": cold,
            "memory_mb": None if ratio is None else {"rss": 43.0, "gpu": 0.0},
            "act_ratio": ratio,
        }
        for name, ratio in (("onnx_4", 17.5), ("act", None), ("render", None))
    }
    floors = {"orin": {"1": 0.25, "4": 0.5}}
    return {"device": "a computer, 2 cores", "rounds": 9, "rows": rows, "floors_ms": floors}


def test_every_round_gives_everybody_one_turn_in_a_new_order():
    calls: list[str] = []
    contenders = [make_contender(name, lambda name=name: calls.append(name)) for name in "abc"]
    time_interleaved(contenders, rounds=7, seed=0)
    per_turn = 1 + TURN_CALLS
    turns = [calls[start : start + per_turn] for start in range(0, len(calls), per_turn)]
    assert all(len(set(turn)) == 1 for turn in turns)
    rounds = [tuple(turn[0] for turn in turns[start : start + 3]) for start in range(0, len(turns), 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(rounds) > 7  # warm-up rounds come first and are not kept
    assert len(set(rounds)) > 1


def test_times_belong_to_their_contender_and_preparation_is_free():
    slow = make_contender("slow", lambda: time.sleep(0.02))
    prepared = make_contender("prepared", lambda: None, before=lambda: time.sleep(0.02))
    times = time_interleaved([slow, prepared], rounds=2, seed=0)
    assert [len(one.cold) for one in times] == [2, 2]
    assert [len(one.wall) for one in times] == [len(one.cpu) for one in times] == [2 * TURN_CALLS] * 2
    assert min(times[0].wall + times[0].cold) >= 20.0
    assert min(times[1].wall) < 20.0
    assert min(times[0].cpu) < 20.0  # sleeping costs no CPU


def test_table_holds_every_number():
    console = Console(width=80)
    with console.capture() as capture:
        console.print(results_table(make_results()))
    for expected in ("row onnx_4", "2.00", "3.00", "4.00", "5.00", "6.00", "43", "17.5", "9 rounds"):
        assert expected in capture.get()


def test_machine_and_threads_are_stated():
    line = device_line(make_results())
    assert line.startswith("a computer, 2 cores (onnx on cpu, 1 thread(s); act on ")


def test_plot_is_a_picture(tmp_path):
    latency_plot(make_results(), tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_act_is_lerobots_at_its_default_size_with_our_cameras():
    torch = pytest.importorskip("torch")
    contender = act_contender(load_robot("sim6"))
    assert contender.what == "LeRobot ACT, 51.6 M"
    with torch.no_grad():
        assert contender.run().shape == (1, 100, 7)


def test_command_measures_a_random_bundle_and_says_where(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sim.bench.act_contender", lambda robot: make_contender("act", lambda: time.sleep(0.2)))
    monkeypatch.setattr("sim.bench.render_contender", lambda sim, robot: make_contender("render", lambda: None))
    monkeypatch.setattr("sim.bench.ArmSim", FakeSim)
    out = tmp_path / "bench"
    arguments = ["--preset", "micro", "--rounds", "3", "--n-steps", "1", "4", "--out", str(out)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert f"results: {out / 'results.json'}" in printed
    results = json.loads((out / "results.json").read_text())
    assert list(results["rows"]) == ["onnx_1", "onnx_4", "torch_1", "torch_4", "act", "render"]
    row = results["rows"]["onnx_4"]
    assert row["device"] == "cpu, 1 thread(s)"
    assert row["wall_ms"]["count"] == 3 * TURN_CALLS
    assert row["cold_ms"]["count"] == 3
    ratio = results["rows"]["act"]["wall_ms"]["p50"] / row["wall_ms"]["p50"]
    assert row["act_ratio"] == pytest.approx(ratio)
    assert results["rows"]["render"]["act_ratio"] is None
    faster = results["rows"]["torch_4"]["wall_ms"]["p50"] / row["wall_ms"]["p50"]
    assert results["torch_ratios"]["onnx_4"]["wall_ms"] == pytest.approx(faster)
    assert 0.0 < results["chunk_differences"]["onnx_4"] < 1e-4
    assert f"{faster:.2f} times as fast as eager torch" in printed
    assert (out / "latency.png").is_file()
    assert {"load_before", "versions", "device", "rounds"} <= results.keys()


class FakeSim:
    """Grey images instead of a renderer."""

    def __init__(self, task, robot):
        self.robot = robot

    def reset(self, seed):
        pass

    def observation(self):
        from wam.spec import Observation

        images = {c.name: np.full((c.height_px, c.width_px, 3), 128, np.uint8) for c in self.robot.cameras}
        return Observation(images=images, proprio=np.zeros(7, np.float32), task="lift the red cube", stamp=0.0)

    def close(self):
        pass


@pytest.mark.slow
def test_the_real_bench_runs(tmp_path):
    results = run_bench(BenchConfig(rounds=2, n_steps=(4,), out=tmp_path))
    assert set(results["rows"]) == {"onnx_4", "torch_4", "act", "render"}
    assert all(row["wall_ms"]["p50"] > 0 for row in results["rows"].values())
    assert results["rows"]["onnx_4"]["cpu_ms"]["p50"] < results["rows"]["act"]["cpu_ms"]["p50"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backends": ("onyx",)}, r"unknown backend 'onyx' \(did you mean 'onnx'\?\)"),
        ({"rounds": 0}, "rounds 0 and n_steps .* must all be at least 1"),
        ({"n_steps": (0,)}, "must all be at least 1"),
        ({"n_steps": ()}, "must all be at least 1"),
        ({"threads": -1}, "threads is -1 but must be 0"),
        ({"device_floor": "orion"}, r"unknown device 'orion' \(did you mean 'orin'\?\)"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BenchConfig(**options)


def test_unknown_robot_and_bundle_are_refused_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.bench.ArmSim", FakeSim)
    with pytest.raises(RobotSpecError, match="unknown robot 'sim7'"):
        run_bench(BenchConfig(robot="sim7", out=tmp_path / "out"))
    with pytest.raises(BundleError, match="is not a policy bundle"):
        run_bench(BenchConfig(bundle=tmp_path, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_floors_are_labelled_as_computed():
    (line,) = floor_lines(make_results())
    assert line == "floor:   Jetson AGX Orin 64 GB, computed, not measured, ms per chunk: 1 step 0.25, 4 steps 0.50"


def test_every_backend_that_runs_here_is_timed_by_default(monkeypatch, micro_bundle, tmp_path):
    assert default_backends(micro_bundle) == ("onnx", "torch")
    install(monkeypatch)
    assert default_backends(micro_bundle) == ("onnx", "torch", "torch_compiled")
    with_gpu = with_engines(micro_bundle, tmp_path / "bundle")
    assert default_backends(with_gpu) == ("onnx", "torch", "torch_compiled", "tensorrt")
    assert memory_bytes().keys() == {"rss", "gpu"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"dtype": "bfloat16"}, ("torch",)), ({"weights": None}, ("onnx",)), ({}, ("onnx", "torch"))],
)
def test_what_cannot_run_a_bundle_is_not_timed(monkeypatch, micro_bundle, changes, expected):
    manifest = dataclasses.replace(read_manifest(micro_bundle), **changes)
    monkeypatch.setattr("sim.bench_contenders.read_manifest", lambda folder: manifest)
    assert default_backends(micro_bundle) == expected
