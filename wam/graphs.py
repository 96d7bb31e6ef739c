"""The stages of inference as static ONNX graphs without a batch axis.

``prompt`` runs once per task, ``context`` once per observation and ``denoise`` once per step; a model with an
inverse-dynamics head has ``inverse`` as well, which names the actions between two observations. The step includes the
Euler update, so N steps are N runs and the number of steps stays a choice of the robot. ``levels`` turns the noise
levels of one step into its modulation tables: it runs once per schedule, when a policy is loaded, and takes 15 % off
every step. No mask is exported: the fast question sees every key (``wam.visibility``). Keys, values and tables are one
tensor each: stacked ones would be split again in every step. Without a batch axis every product of tokens and weights
is a plain matrix product, another 11 %.

What is decided before the robot sees anything is not computed there, and each saving is exact: keys and values of the
instruction (``prompt``), modulation of the clean frame (a constant), modulation of the steps (``levels``), queries and
everything behind them in the last video block (never exported).

Shape legend: I instants of an observation (absent if one), K cameras, H chunk, A action width, P proprio width, T
prompt words, W text width, N tokens of the observation, Z values of a token.
"""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wam.blocks import HeadModulation, KeysValues, Modulation
from wam.caches import ContextCache, PromptCache, StepTables
from wam.config import ModelConfig
from wam.expert import ExpertModulation, LayersKV
from wam.manifest import TensorSpec
from wam.model import WorldActionModel
from wam.text import VOCABULARY_SIZE
from wam.vae_fold import FirstFrameVae, frame_tokens

__all__ = ["Stage", "example_inputs", "stages", "tensor_spec"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One graph to be: a module with named, positional inputs and outputs."""

    name: str  # of the graph and its file
    module: nn.Module
    inputs: tuple[str, ...]  # in call order
    outputs: tuple[str, ...]  # in return order

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the module on its inputs, picked by name."""
        with torch.no_grad():
            out = self.module(*(tensors[name] for name in self.inputs))
        return dict(zip(self.outputs, out, strict=True))


def stages(
    model: WorldActionModel,
    clean: ExpertModulation | None = None,
    vae: FirstFrameVae | None = None,
    *,
    encoded: bool = False,
) -> tuple[Stage, ...]:
    """Returns the stages of a model, in the order in which they feed each other.

    Args:
        model: The network, on any device.
        clean: What its ``clean_modulation`` gives for one sample, where the model has no values to compute it with.
        vae: Frozen autoencoder of the observation (``wam.vae_fold.FirstFrameVae``), for a model whose tokenizer is one.
        encoded: The observation enters ``context`` as ``tokens`` (N, Z) rather than ``images``: the network alone.
    """
    if clean is None:
        with torch.no_grad():
            clean = model.clean_modulation(next(model.parameters()).new_zeros(1, dtype=torch.float32))
    layers = model.config.num_layers
    # The last video block gives only keys and values: nothing of it attends to the instruction.
    prompt = (*_kv_names("prompt_video", layers - 1), *_kv_names("prompt_action", layers))
    kinds = ("frame", "cross", "image")
    cache = tuple(name for kind, count in zip(kinds, _cached(model), strict=True) for name in _kv_names(kind, count))
    tables = ("gain", *_table_names(model))
    words = "token_ids" if model.config.text == "words" else "text"
    seen, context = ("tokens", _TokenContext(model, clean)) if encoded else ("images", _Context(model, clean, vae))
    inverse = Stage(name="inverse", module=_Inverse(model, vae), inputs=("now", "later"), outputs=("actions_between",))
    return (
        Stage(name="prompt", module=_Prompt(model), inputs=(words,), outputs=prompt),
        Stage(name="context", module=context, inputs=(seen, "proprio", *prompt), outputs=cache),
        Stage(name="levels", module=_Levels(model), inputs=("sigma", "sigma_next"), outputs=tables),
        Stage(name="denoise", module=_Denoise(model), inputs=("actions", *tables, *cache), outputs=("actions_next",)),
        *((inverse,) if model.inverse is not None and not encoded else ()),
    )


def example_inputs(config: ModelConfig, seed: int) -> dict[str, Tensor]:
    """Draws random inputs of the whole chain, on the CPU: all but what the stages make for each other."""
    generator = torch.Generator().manual_seed(seed)
    images = (config.n_cameras, *config.image_size_px, 3)
    instants = (config.n_instants,) if config.n_instants > 1 else ()  # an axis only where there are several
    ids = torch.randint(0, VOCABULARY_SIZE, (config.prompt_length,), generator=generator)
    if config.text == "words":
        instruction = {"token_ids": ids}
    else:
        instruction = {"text": torch.randn(config.prompt_length, config.text_width, generator=generator)}
    drawn = {
        **instruction,
        "images": torch.randint(0, 256, (*instants, *images), generator=generator).to(torch.uint8),
        "proprio": torch.randn(*instants, config.state_dim, generator=generator),
        "actions": torch.randn(config.chunk_length, config.action_dim, generator=generator),
        "sigma": torch.ones(config.chunk_length),
        "sigma_next": torch.zeros(config.chunk_length),
    }
    if config.inverse_head:
        drawn["now"] = drawn["images"][-1] if instants else drawn["images"]
        drawn["later"] = torch.randint(0, 256, images, generator=generator).to(torch.uint8)
    return drawn


def tensor_spec(name: str, tensor: Tensor) -> TensorSpec:
    """Describes a tensor for the manifest."""
    return TensorSpec(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))


class _Part(nn.Module):
    def __init__(self, model: WorldActionModel) -> None:
        super().__init__()
        self.model = model
        self.layers = model.config.num_layers


class _Prompt(_Part):
    def forward(self, instruction: Tensor) -> tuple[Tensor, ...]:
        prompt = self.model.encode_prompt(instruction)
        return _flat((prompt.video[:-1], prompt.action))


class _Context(_Part):
    def __init__(self, model: WorldActionModel, clean: ExpertModulation, vae: FirstFrameVae | None) -> None:
        super().__init__(model)
        self.vae = vae
        for layer, block in enumerate(clean.blocks):
            for name, table in block._asdict().items():
                self.register_buffer(f"clean_{name}_{layer:02d}", table[0])  # (1, D): for all tokens of the frame

    def forward(self, images: Tensor, proprio: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        tokenizer, several = self.model.tokenizer, self.model.config.n_instants > 1
        instants = images if several else images[None]  # (I, K, height, width, 3)
        seen = tokenizer.image_tokens(instants)
        batch = tokenizer.encode(instants) if self.vae is None else frame_tokens(tokenizer, self.vae, instants)
        tokens = batch.flatten(0, 1) if several else batch[0]  # (N, Z)
        return self._cache(tokens, proprio, prompt, None if seen is None else seen[0])

    def _cache(
        self, tokens: Tensor, proprio: Tensor, prompt: tuple[Tensor, ...], image_tokens: Tensor | None
    ) -> tuple[Tensor, ...]:
        video, action = _unflat(prompt, (self.layers - 1, self.layers))
        nothing = KeysValues(*(part[:, :0] for part in action[-1]))  # stands where no one looks
        cross = self.model.observation_kv(proprio, PromptCache((*video, nothing), action), image_tokens)
        return _flat(self.model.encode_context_tokens(tokens, cross, self._clean()))

    def _clean(self) -> ExpertModulation:
        blocks = (
            Modulation(*(self.get_buffer(f"clean_{name}_{layer:02d}") for name in Modulation._fields))
            for layer in range(self.layers)
        )
        return ExpertModulation(tuple(blocks), None)  # the output layer of the clean frame is never run


class _TokenContext(_Context):
    """From an observation that is encoded already, without tokens of an image encoder."""

    def __init__(self, model: WorldActionModel, clean: ExpertModulation) -> None:
        super().__init__(model, clean, None)

    def forward(self, tokens: Tensor, proprio: Tensor, *prompt: Tensor) -> tuple[Tensor, ...]:
        return self._cache(tokens, proprio, prompt, None)


class _Inverse(_Part):
    """Images of two instants → the actions between them."""

    def __init__(self, model: WorldActionModel, vae: FirstFrameVae | None) -> None:
        super().__init__(model)
        self.vae = vae

    def forward(self, now: Tensor, later: Tensor) -> tuple[Tensor]:
        return (self.model.inverse(self._tokens(now), self._tokens(later)),)

    def _tokens(self, images: Tensor) -> Tensor:
        tokenizer = self.model.tokenizer
        batch = tokenizer.encode(images[None]) if self.vae is None else frame_tokens(tokenizer, self.vae, images[None])
        return batch[0]  # (N, Z)


class _Levels(_Part):
    def forward(self, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, ...]:
        tables = self.model.step_tables(sigma[None], sigma_next[None])
        flat = [table for block in tables.modulation.blocks for table in block]
        return tuple(table[0] for table in (tables.gain, *flat, *(tables.modulation.head or ())))


class _Denoise(_Part):
    def forward(self, actions: Tensor, gain: Tensor, *rest: Tensor) -> tuple[Tensor]:
        width = len(Modulation._fields)
        end = width * self.layers
        blocks = tuple(Modulation(*rest[start : start + width]) for start in range(0, end, width))
        caches = end + len(_head_names(self.model))
        head = HeadModulation(*rest[end:caches]) if caches > end else None
        context = ContextCache(*_unflat(rest[caches:], _cached(self.model)))
        return (self.model.denoise(actions, StepTables(ExpertModulation(blocks, head), gain), context),)


def _kv_names(kind: str, layers: int) -> tuple[str, ...]:
    return tuple(f"{kind}_{part}_{layer:02d}" for layer in range(layers) for part in KeysValues._fields)


def _table_names(model: WorldActionModel) -> tuple[str, ...]:
    layers = range(model.config.num_layers)
    return (*(f"{part}_{layer:02d}" for layer in layers for part in Modulation._fields), *_head_names(model))


def _head_names(model: WorldActionModel) -> tuple[str, ...]:
    return tuple(f"head_{part}" for part in HeadModulation._fields if model.config.action_head == "modulated")


def _cached(model: WorldActionModel) -> tuple[int, ...]:
    """Layers of each field of a ``ContextCache``."""
    layers = model.config.num_layers
    return layers, layers, layers if model.config.action_register and model.config.image_width else 0


def _flat(caches: Iterable[LayersKV]) -> tuple[Tensor, ...]:
    return tuple(tensor for layers in caches for kv in layers for tensor in kv)


def _unflat(tensors: tuple[Tensor, ...], counts: Iterable[int]) -> list[LayersKV]:
    """The inverse of ``_flat``, for fields of so many layers each."""
    pairs = iter([KeysValues(*tensors[start : start + 2]) for start in range(0, len(tensors), 2)])
    return [tuple(itertools.islice(pairs, count)) for count in counts]
