"""Quantises one ONNX graph with nvidia-modelopt, in the environment that ``make quantise-environment`` made for it.

Run by ``wam quantise`` as ``python quantise_worker.py JOB.json``; it imports nothing of this repository, the libraries
of which are not installed there. JOB.json holds graph, calibration arrays, scheme, nodes and where to write.
"""

import json
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
    quantize(
        onnx_path=job["graph"],
        quantize_mode=job["scheme"],
        calibration_data=calibration,
        calibration_method=job["method"],
        calibration_eps=["cpu"],
        op_types_to_quantize=["Gemm", "MatMul"],
        nodes_to_quantize=job["nodes"],
        high_precision_dtype="fp32",  # of everything else: the graph stays what it was
        disable_mha_qdq=True,
        output_path=job["out"],
        log_level="WARNING",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
