"""`wam bench fastwam`: both cores are compared before they are timed, and the report says what was measured."""

import json
from pathlib import Path

import pytest

from sim import bench_fastwam
from sim.bench_fastwam import FastWamBenchConfig, main, run_bench
from wam.errors import ConfigError, WamError
from wam.fastwam_pair import build_pair


def test_the_report_holds_both_and_their_ratio(tmp_path: Path, capsys):
    arguments = ["--out", str(tmp_path), "--rounds", "2", "--warmup", "0", "--n-steps", "1"]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert 6.7e6 < results["parameters"] < 6.9e6
    assert results["geometry"]["chunk_length"] == 32
    theirs = results["rows"]["LeRobot FastWAM core, eager"]
    for way in ("eager", "onnx"):
        assert 0.0 < results["difference"][way] < 1e-4  # two programs never agree to the last bit
        ours = results["rows"][f"ours, {way}"]
        for kind in ("wall_ms", "cpu_ms"):
            assert results["ratio"][way][kind] == pytest.approx(theirs[kind]["p50"] / ours[kind]["p50"])
        task = results["rows"][f"ours, {way}, once per task"]["wall_ms"]["p50"]
        with_task = theirs["wall_ms"]["p50"] / (ours["wall_ms"]["p50"] + task)
        assert results["ratio_new_task_each_chunk"][way]["wall_ms"] == pytest.approx(with_task)
    assert capsys.readouterr().out.count("ratio:") == 2


def test_graphs_that_compute_something_else_are_not_timed(monkeypatch):
    right = bench_fastwam.OnnxHalf.chunk
    monkeypatch.setattr(bench_fastwam.OnnxHalf, "chunk", lambda self, *rest: right(self, *rest) + 1.0)
    with pytest.raises(WamError, match=r"\(onnx\).*differ by 1.*nothing is timed"):
        run_bench(FastWamBenchConfig(n_steps=1))


def test_unequal_cores_are_not_timed(monkeypatch):
    pair = build_pair(0)
    pair.ours.experts["action"].head.linear.bias.data.add_(1.0)
    monkeypatch.setattr(bench_fastwam, "build_pair", lambda seed: pair)
    with pytest.raises(WamError, match="differ by 1.*nothing is timed"):
        run_bench(FastWamBenchConfig(n_steps=1))


def test_impossible_settings():
    with pytest.raises(ConfigError, match="rounds is 0 but must be at least 1"):
        FastWamBenchConfig(rounds=0)
