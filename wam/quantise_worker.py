"""Quantises one ONNX graph with nvidia-modelopt, in the environment that ``make quantise-environment`` made for it.

Run by ``wam quantise`` as ``python quantise_worker.py JOB.json``; it imports nothing of this repository, the libraries
of which are not installed there. JOB.json holds graph, calibration arrays, scheme, nodes and where to write.
"""

import json
import re
import sys
from pathlib import Path

__all__ = ["main"]


def main(job_path: str) -> int:
    """Runs one job."""
    import numpy as np
    from modelopt.onnx.quantization import quantize

    job = json.loads(Path(job_path).read_text())
    with np.load(job["calibration"], allow_pickle=False) as arrays:
        calibration = {name: arrays[name] for name in arrays.files}
    weights_only = job["scheme"] == "int4"
    options = {
        "onnx_path": job["graph"],
        "quantize_mode": job["scheme"],
        "calibration_data": calibration,
        "calibration_method": job["method"],
        "calibration_eps": ["cpu"],
        "high_precision_dtype": "fp32",  # of everything else: the graph stays what it was
        "output_path": job["out"],
        "log_level": "WARNING",
    }
    if weights_only:
        quantize(**options, block_size=job["block"], nodes_to_exclude=_others(job["graph"], job["nodes"]))
    else:
        quantize(
            **options,
            op_types_to_quantize=["Gemm", "MatMul"],
            nodes_to_quantize=job["nodes"],
            disable_mha_qdq=True,
        )
    return 0


def _others(graph: str, patterns: list[str]) -> list[str]:
    """Patterns of all products but the wanted ones: four bits can only be told what to leave alone."""
    import onnx

    nodes = onnx.load(graph, load_external_data=False).graph.node
    wanted = [
        node.op_type == "MatMul" and any(re.fullmatch(pattern, node.name) for pattern in patterns) for node in nodes
    ]
    products = [node.name for node, keep in zip(nodes, wanted, strict=True) if not keep and "MatMul" in node.op_type]
    products += [node.name for node in nodes if node.op_type == "Gemm"]
    return [f"^{re.escape(name)}$" for name in products]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
