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
    assert results["difference"] < 1e-4
    ours, theirs = results["rows"]["ours, eager"], results["rows"]["LeRobot FastWAM core, eager"]
    assert results["ratio"]["wall_ms"] == pytest.approx(theirs["wall_ms"]["p50"] / ours["wall_ms"]["p50"])
    assert "ratio:" in capsys.readouterr().out


def test_unequal_cores_are_not_timed(monkeypatch):
    pair = build_pair(0)
    pair.ours.experts["action"].head.linear.bias.data.add_(1.0)
    monkeypatch.setattr(bench_fastwam, "build_pair", lambda seed: pair)
    with pytest.raises(WamError, match="differ by 1.*nothing is timed"):
        run_bench(FastWamBenchConfig(n_steps=1))


def test_impossible_settings():
    with pytest.raises(ConfigError, match="rounds is 0 but must be at least 1"):
        FastWamBenchConfig(rounds=0)
