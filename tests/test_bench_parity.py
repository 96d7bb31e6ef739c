"""Backends are timed side by side only where they give the same chunk; the ratio is that of the medians."""

from types import SimpleNamespace

import numpy as np
import pytest

from policy.timing import Contender
from sim.bench_parity import chunk_differences, ratio_lines, torch_ratios
from wam.errors import WamError


def planner(name, offset):
    chunk = SimpleNamespace(actions=np.full((4, 3), offset, dtype=np.float32))
    return Contender(name=name, what=f"ours, {name}", device="cpu", run=lambda: chunk)


def test_every_backend_is_compared_with_eager_torch_of_as_many_steps():
    contenders = [planner("onnx_1", 1.00003), planner("torch_1", 1.0), planner("onnx_4", 2.0), planner("torch_4", 2.0)]
    found = chunk_differences(contenders, "float32")
    assert found == {"onnx_1": pytest.approx(3e-5, rel=0.01), "onnx_4": 0.0}


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 2e-4), ("float16", 6e-3), ("float32", np.nan)])
def test_other_chunks_are_not_timed(dtype, offset):
    contenders = [planner("onnx_4", offset), planner("torch_4", 0.0)]
    with pytest.raises(WamError, match=r"'onnx' and 'torch' give chunks of 4 step\(s\) that differ by .*wam verify"):
        chunk_differences(contenders, dtype)


def test_without_torch_the_first_backend_is_the_reference():
    contenders = [planner("tensorrt_4", 0.0), planner("onnx_4", 1e-2)]
    assert chunk_differences(contenders, "bfloat16") == {"onnx_4": pytest.approx(1e-2)}
    assert chunk_differences(contenders[:1], "float32") == {}


def test_chunks_of_another_question_are_not_expected_to_be_equal():
    assert chunk_differences([planner("torch_4", 0.0), planner("torch_joint_4", 5.0)], "float32") == {}


def test_ratios_are_of_medians_and_are_told_with_the_difference():
    kinds = ("wall_ms", "cold_ms", "cpu_ms")
    times = {"onnx_4": 2.0, "torch_4": 5.0, "torch_joint_4": 50.0, "onnx_1": 1.0, "act": 9.0}
    rows = {name: {"what": f"row {name}", **{kind: {"p50": ms} for kind in kinds}} for name, ms in times.items()}
    ratios = torch_ratios(rows)
    assert ratios == {"onnx_4": dict.fromkeys(kinds, 2.5)}  # torch took no single step
    (line,) = ratio_lines({"rows": rows, "torch_ratios": ratios, "chunk_differences": {"onnx_4": 3e-7}})
    assert line.startswith("row onnx_4: 2.50 times as fast as eager torch")
    assert line.endswith("3.0e-07")
