"""What ``wam bench geometry`` times: our network's core on torch backends, and LeRobot's, with random weights.

Shape legend: N tokens of the observation, Z values of a token, T text tokens, W text width, P proprio width, H chunk,
A action width.
"""

import functools
import gc
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policy.timing import Contender, resident_bytes
from policy.torch_backend import TorchBackend
from policy.torch_compiled import CompiledTorchBackend
from wam.caches import ContextCache, PromptCache
from wam.config import ModelConfig
from wam.model import WorldActionModel
from wam.precision import DTYPES, lower_matmuls
from wam.sigmas import sigma_schedule
from wam.skeleton import skeleton

__all__ = ["lerobot_contenders", "our_contenders", "random_model", "take_tokens"]


def take_tokens(model: WorldActionModel) -> WorldActionModel:
    """Makes a model without its autoencoder's weights take an observation's tokens where a backend hands it images."""

    def encode_context(tokens: Tensor, proprio: Tensor, prompt: PromptCache) -> ContextCache:
        """(1, N, Z) tokens and (1, P) proprio → keys and values."""
        return model.encode_context_tokens(tokens, model.cross_kv(proprio, prompt))

    model.encode_context = encode_context
    return model


def random_model(config: ModelConfig, dtype: str, device: str, seed: int) -> WorldActionModel:
    """Makes a model with random weights on a device, without ever having it in another type or place."""
    model = lower_matmuls(skeleton(config), dtype)
    generator = torch.Generator(device).manual_seed(seed)
    weights = {}
    for name, parameter in model.named_parameters():
        inputs = max(1, parameter.numel() // max(1, len(parameter)))
        values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        # A product keeps its input's spread; norms are near 1 and biases small, so that activations stay finite.
        weights[name] = values.normal_(std=inputs**-0.5 if parameter.ndim > 1 else 0.02, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weights[name].add_(1.0)
    model.load_state_dict(weights, strict=False, assign=True)
    return model.to(device).eval().requires_grad_(False)


def our_contenders(
    make: Callable[[], WorldActionModel],
    device: str,
    step_counts: Sequence[int],
    seed: int,
    *,
    compiled: bool,
    images: bool,
) -> list[Contender]:
    """Returns one contender per number of steps.

    Args:
        make: Gives the model, on its device.
        device: "cpu" or "cuda".
        step_counts: Denoising steps per chunk.
        seed: Of the inputs.
        compiled: Compiled, with one CUDA graph per chunk, rather than eager.
        images: Through the video autoencoder rather than from tokens.
    """
    before = _memory(device)
    model: Any = make()
    config = model.config
    if images:
        from wam.vae import random_vae

        dtype = model.experts["video"].blocks[0].qkv.weight.dtype
        model.tokenizer.attach(random_vae(config).to(device, dtype))
    elif config.tokenizer == "vae":
        model = take_tokens(model)
    backend = (CompiledTorchBackend if compiled else TorchBackend).of_model(model, device)
    rng = np.random.default_rng(seed)
    seen = _observation(config, rng, images=images or config.tokenizer != "vae")
    prompt = backend.encode_prompt(_instruction(config, rng))
    proprio = rng.standard_normal(config.state_dim, dtype=np.float32)
    noise = rng.standard_normal((config.chunk_length, config.action_dim), dtype=np.float32)

    def chunk(n_steps: int) -> np.ndarray:
        backend.encode_context(seen, proprio, prompt)
        return backend.denoise(noise, sigma_schedule(n_steps, config.action_shift))

    for n_steps in step_counts:
        chunk(n_steps)  # compiles and records; counts for the memory
    kind = ("compiled" if compiled else "eager") + (", from images" if images else "")
    return _per_step_count("ours", kind, f"{device}, {backend.threads} thread(s)", chunk, step_counts, before)


@torch.no_grad()
def lerobot_contenders(
    config: ModelConfig, dtype: str, device: str, step_counts: Sequence[int], seed: int
) -> list[Contender]:
    """Returns LeRobot's FastWAM core, eager, from latents and text embeddings, one contender per number of steps."""
    from wam.fastwam_pair import their_core

    before = _memory(device)
    (rows, columns), side = config.grid, config.token_patch
    latents = torch.randn(1, config.latent_channels, 1, rows * side, columns * side * config.n_cameras)
    default = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])  # made in its type: twice the memory is not always there
    try:
        with torch.device(device):
            theirs = their_core(config, latents, device=device, dtype=DTYPES[dtype])
    finally:
        torch.set_default_dtype(default)
    theirs = theirs.to(device, DTYPES[dtype]).eval().requires_grad_(False)
    height, width = config.image_size_px
    options = {
        "prompt": None,
        "input_image": torch.zeros(1, 3, height, width * config.n_cameras),  # the latents above are what it becomes
        "action_horizon": config.chunk_length,
        "proprio": torch.randn(1, config.state_dim),
        "context": torch.randn(1, config.prompt_length, config.text_width, dtype=DTYPES[dtype], device=device),
        "context_mask": torch.ones(1, config.prompt_length, dtype=torch.bool, device=device),
        "seed": seed,
    }

    def chunk(n_steps: int) -> Any:
        with torch.inference_mode():
            return theirs.infer_action(num_inference_steps=n_steps, **options)

    chunk(step_counts[0])
    where = f"{device}, {torch.get_num_threads()} thread(s)"
    return _per_step_count("LeRobot FastWAM", "eager", where, chunk, step_counts, before)


def _per_step_count(
    who: str,
    kind: str,
    where: str,
    chunk: Callable[[int], Any],
    step_counts: Sequence[int],
    before: dict[str, float],
) -> list[Contender]:
    """One contender per number of steps; all share what making them added to the memory of ``before``."""
    memory = _added(before, where.partition(",")[0])
    return [
        Contender(
            name=f"{who}, {kind}, {n_steps}",
            what=f"{who}, {kind}, {n_steps} step{'s' * (n_steps > 1)}",
            device=where,
            run=functools.partial(chunk, n_steps),
            memory_mb=memory,
        )
        for n_steps in step_counts
    ]


def _observation(config: ModelConfig, rng: np.random.Generator, *, images: bool) -> np.ndarray:
    if images:
        return rng.integers(0, 256, (config.n_cameras, *config.image_size_px, 3), dtype=np.uint8)
    return rng.standard_normal((config.tokens_per_frame, config.token_dim), dtype=np.float32)


def _instruction(config: ModelConfig, rng: np.random.Generator) -> np.ndarray:
    if config.text == "words":
        return rng.integers(0, 100, config.prompt_length)
    return rng.standard_normal((config.prompt_length, config.text_width), dtype=np.float32)


def _memory(device: str) -> dict[str, float]:
    gc.collect()
    on_gpu = torch.cuda.memory_reserved() if device == "cuda" else 0
    return {"rss": float(resident_bytes()), "gpu": float(on_gpu)}


def _added(before: dict[str, float], device: str) -> dict[str, float]:
    return {kind: max(0.0, now - before[kind]) / 1e6 for kind, now in _memory(device).items()}
