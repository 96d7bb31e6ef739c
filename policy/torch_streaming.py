"""The streaming form on torch: what was computed of earlier observations stays, a new one costs one instant.

A causal policy that looks back on I instants computes I of them for every observation elsewhere. Here each instant of
an episode is computed once (``wam.streaming``), if observations come at the spacing of its instants or at a whole
fraction of it: one control step apart and a stride of four are four interleaved streams. Of an observation whose past
was not seen here before, that past is computed too; so what is left out never changes a chunk, and ``computed`` tells
how much was saved.

Shape legend: I instants, K cameras, P proprio width.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from policy.torch_backend import TorchBackend

__all__ = ["StreamingTorchBackend"]

logger = logging.getLogger(__name__)

# Two times are one instant if they lie closer than this [s]: ticks of a robot jitter by less, camera frames are apart
# by more. A past that is not found is computed again, which costs time and changes nothing.
SAME_INSTANT_S = 0.004
KEPT_STREAMS = 32  # caches of the newest observations; interleaved streams need as many as the stride


class StreamingTorchBackend(TorchBackend):
    """Runs a causal bundle's weights eagerly; arguments and errors as for ``TorchBackend``.

    Raises:
        ConfigError: The model's instants see later ones, so nothing could be kept.
    """

    name = "torch_streaming"

    def _start(self, model: Any, device: str) -> None:
        from wam.streaming import start_stream  # imports torch

        super()._start(model, device)
        config = self._model.config
        self._empty = start_stream(self._model)
        self._clean: Any = None  # what sigma 0 does, computed once
        self._kept: OrderedDict[float, tuple[Any, Any]] = OrderedDict()  # stamp -> (prompt handle, cache)
        self.observations = self.computed = 0  # since construction: observations, and instants computed for them
        if config.obs_lead < config.full_lead:
            logger.warning(
                "this policy was trained with %d leading instants; %d would make a stream equal to it exactly",
                config.obs_lead,
                config.full_lead,
            )

    def forget(self) -> None:
        """See ``Streaming.forget``."""
        self._kept.clear()

    def encode_context(self, images: np.ndarray, proprio: np.ndarray, prompt: Any) -> None:
        """See ``Backend.encode_context``: instants without stamps, all of them computed and nothing kept."""
        with self._torch.inference_mode():
            self._see(images, proprio, prompt, self._empty)

    def encode_stream(self, images: np.ndarray, proprio: np.ndarray, prompt: Any, stamps: Sequence[float]) -> None:
        """See ``Streaming.encode_stream``."""
        first, cache = self._known(stamps, prompt)
        with self._torch.inference_mode():
            cache = self._see(images[first:], proprio[first:], prompt, cache)
        self.observations += 1
        self.computed += len(stamps) - first
        self._kept[float(stamps[-1])] = (prompt, cache)
        self._kept.move_to_end(float(stamps[-1]))
        while len(self._kept) > KEPT_STREAMS:
            self._kept.popitem(last=False)

    def _see(self, images: np.ndarray, proprio: np.ndarray, prompt: Any, cache: Any) -> Any:
        from wam.streaming import see_instant  # imports torch

        model = self._model
        if self._clean is None:
            self._clean = model.clean_modulation(self._torch.zeros(1, device=self.device))
        tokens = model.tokenizer.encode(self._batch(images)[0])  # (I, N, Z)
        for instant, state in zip(tokens, self._batch(proprio)[0], strict=True):
            cross = model.cross_kv(state[None], prompt)
            cache, self._context = see_instant(model, cache, instant[None], cross, self._clean)
        return cache

    def _known(self, stamps: Sequence[float], prompt: Any) -> tuple[int, Any]:
        """Index of the first instant that has to be computed, and the cache of those before it."""
        for index in range(len(stamps) - 2, -1, -1):
            if stamps[index] == stamps[-1]:
                continue  # the beginning of an episode: the same instant stands in for its past
            nearest = min(self._kept, key=lambda stamp: abs(stamp - stamps[index]), default=None)
            if nearest is not None and abs(nearest - stamps[index]) <= SAME_INSTANT_S:
                held_prompt, cache = self._kept[nearest]
                if held_prompt is prompt:
                    return index + 1, cache
        return 0, self._empty
