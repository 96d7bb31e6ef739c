"""Our half of the FastWAM pair on ONNX Runtime: the graphs of a bundle, run by the backend of a robot.

The graphs are those of ``wam export`` except that ``context`` starts at tokens, where LeRobot's core starts too. They
are written to a folder of the caller and run through ``OnnxBackend``, with its bindings, buffers and thread settings.
"""

from pathlib import Path
from typing import Any

import numpy as np

from policy.onnx_backend import OnnxBackend
from wam.bundle_graphs import write_graphs
from wam.fastwam_pair import FastWamPair
from wam.sigmas import sigma_schedule
from wam.tensor_files import TensorMap

__all__ = ["OnnxHalf"]


class OnnxHalf:
    """Our network of a pair, exported and opened.

    Args:
        pair: Both networks and their inputs.
        folder: Empty folder for graphs and weights; they are mapped for as long as this object is used.
        threads: Threads inside one operator.
    """

    def __init__(self, pair: FastWamPair, folder: Path, threads: int) -> None:
        config, inputs = pair.ours.config, pair.inputs
        weights = TensorMap(pair.ours.state_dict())
        graphs = write_graphs(config, weights, folder, dtype="float32", encoded=True)
        self._backend = OnnxBackend.of_graphs(folder, graphs, "float32", threads=threads)
        self._shift = config.action_shift
        self._text, self._tokens, self._proprio, self._noise = (
            value[0].numpy() for value in (inputs.text, inputs.tokens, inputs.proprio, inputs.noise)
        )

    def prompt(self) -> Any:
        """What is computed once per task."""
        return self._backend.encode_prompt(self._text)

    def chunk(self, n_steps: int, prompt: Any) -> np.ndarray:
        """Observation → (H, A) chunk, as ``FastWamPair.our_chunk``."""
        self._backend.encode_context(self._tokens, self._proprio, prompt)
        return self._backend.denoise(self._noise, sigma_schedule(n_steps, self._shift))
