"""The world-action model: a video expert and an action expert that share attention layer by layer.

Tokens come in three groups (``wam.visibility``): F clean frames, V future video, A action chunk. F and V run through
the video expert, A through the action expert. Proprio is one more token of the text context. The network is only ever
called on groups, so no attention mask is needed; keys and values of groups computed earlier are passed in, which is why
cached inference and the uncached forward run the same code, for each of the four questions. A noise level belongs to a
sample or to every one of its tokens; what the levels do (``StepTables``) depends on them alone, so a sampler may
compute it once per schedule.

The observation may hold several instants (``wam.history``): its tokens are then those of all of them, oldest first, and
each instant cross-attends to its own proprio. Images and proprio get an axis T of instants behind the batch; an
observation of one instant has none.

Source: Fast-WAM (arXiv 2603.16666), DreamZero (arXiv 2602.15922).

Shape legend: B batch, T instants of an observation (in a prompt: its words), K cameras, H chunk, A action width,
P proprio width, L layers, h heads, d head size, N tokens, M tokens of the imagined future, W text width, I image
tokens, Z values of a video token, C condition values of one, S noise levels of a sample (absent or 1: the same for all
its tokens; else one per token).
"""

from collections.abc import Collection, Mapping

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from wam import rope
from wam.caches import ContextCache, NoisyVideo, Predictions, PromptCache, StepTables, append_layers, map_layers
from wam.conditions import frame_condition, with_condition
from wam.config import ModelConfig
from wam.expert import Expert, ExpertModulation, LayersKV, RegisterExpert
from wam.flow import step_gain, velocity_from_x
from wam.instants import frame_tables, observation_band, present, used_keys
from wam.inverse_dynamics import InverseDynamicsHead
from wam.layers import Run, Stream, run_layers
from wam.text import VOCABULARY_SIZE
from wam.tokenizer import make_tokenizer
from wam.visibility import Group, Question

__all__ = [
    "ContextCache",
    "ExpertModulation",
    "LayersKV",
    "Predictions",
    "PromptCache",
    "StepTables",
    "WorldActionModel",
]

POSITION_STD = 0.02  # initial spread of learned embeddings


class WorldActionModel(nn.Module):
    """One network; which groups are noise, clean or absent decides what is asked of it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = make_tokenizer(config)
        if config.text == "words":
            self.words = nn.Embedding(VOCABULARY_SIZE, config.text_width)
            self.word_positions = nn.Parameter(POSITION_STD * torch.randn(config.prompt_length, config.text_width))
        self.proprio_in = nn.Linear(config.state_dim, config.text_width)
        video = Expert(config, "video")
        action = RegisterExpert(config, video) if config.action_register else Expert(config, "action")
        self.experts = nn.ModuleDict({"video": video, "action": action})
        places = config.tokens_per_frame if config.learned_positions else 0
        steps = config.chunk_length if config.learned_positions else 0
        self.video_positions = nn.Parameter(POSITION_STD * torch.randn(places, config.video_width))
        self.action_positions = nn.Parameter(POSITION_STD * torch.randn(steps, config.action_width))
        self.inverse = InverseDynamicsHead(config) if config.inverse_head else None
        self.make_tables()

    def make_tables(self) -> None:
        """Computes the rotary tables, which are no part of the weights: anew after a model was built without values."""
        config = self.config
        rows, columns = config.grid
        later = torch.arange(1, config.future_latents + 1)
        self._register_tables("now", frame_tables(config, config.n_instants))
        self._register_tables(
            "later", rope.video_tables(later.float(), rows, columns * config.n_cameras, config.head_dim)
        )
        self._register_tables("chunk", rope.action_tables(config.chunk_length, config.head_dim))

    # -- the stages of inference, each one exported graph -------------------------------------------------------------

    def encode_prompt(self, prompt: Int64[Tensor, "*B T"] | Float[Tensor, "*B T W"]) -> PromptCache:
        """Instruction, as word ids or as the text encoder's embeddings → cross-attention keys and values."""
        text = self.words(prompt) + self.word_positions if self.config.text == "words" else prompt  # (B, T, W)
        return PromptCache(**self._text_kv(text))

    def encode_context(
        self,
        images: UInt8[Tensor, "B *T K height width 3"],
        proprio: Float[Tensor, "B *T P"],
        prompt: PromptCache,
    ) -> ContextCache:
        """One observation → keys and values that every denoising step reads."""
        cross = self.observation_kv(proprio, prompt, self.tokenizer.image_tokens(present(images, self.config)))
        return self.encode_context_tokens(self.frame_tokens(images), cross)

    def frame_tokens(self, images: UInt8[Tensor, "B *T K height width 3"]) -> Float[Tensor, "B N Z"]:
        """Video tokens of all instants of an observation."""
        if self.config.n_instants == 1:
            return self.tokenizer.encode(images)
        return self.tokenizer.encode(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1, 2)

    def encode_context_tokens(
        self,
        tokens: Float[Tensor, "*B N Z"],
        cross: Mapping[str, LayersKV],
        modulation: ExpertModulation | None = None,
    ) -> ContextCache:
        """As ``encode_context``, from video tokens and what ``observation_kv`` and ``clean_modulation`` returned."""
        band, size = observation_band(self.config, self.config.n_instants), self.config.tokens_per_frame
        frame = tuple(used_keys(kv, band, size) for kv in self.frame_kv(tokens, cross, modulation))
        return ContextCache(frame, cross["action"], cross.get("image", ()) if self.config.action_register else ())

    def frame_kv(
        self,
        tokens: Float[Tensor, "*B N Z"],
        cross: Mapping[str, LayersKV],
        modulation: ExpertModulation | None = None,
        past: LayersKV = (),
        instants: int | None = None,
    ) -> LayersKV:
        """Keys and values of an observation's own tokens.

        Args:
            tokens: Its video tokens.
            cross: What ``cross_kv`` returned for one instant, or ``observation_kv`` for all.
            modulation: What ``clean_modulation`` returned; None computes it.
            past: Keys and values of earlier instants that these tokens see, turned to their places before them.
            instants: How many instants the tokens are of; None is ``config.n_instants``.
        """
        if modulation is None:
            modulation = self.clean_modulation(tokens.new_zeros(tokens.shape[:-2]))
        groups = {Group.FRAME: self._enter_frame(tokens, modulation, instants)}
        return self._run(groups, {}, cross, Question.POLICY, silent=groups, past=past).kv[Group.FRAME]

    def clean_modulation(self, clean: Float[Tensor, " B"]) -> ExpertModulation:
        """What sigma 0 does to the video expert: a constant of the weights, which exported graphs hold as such."""
        return self.experts["video"].modulate(_per_token(clean))

    def step_tables(self, sigma: Float[Tensor, "B ..."], sigma_next: Float[Tensor, "B ..."]) -> StepTables:
        """Noise levels of one Euler step of the action chunk → what ``denoise`` needs of them."""
        modulation = self.experts["action"].modulate(_per_token(sigma))
        return StepTables(modulation, step_gain(_per_token(sigma), _per_token(sigma_next), self._prediction)[..., None])

    def denoise(
        self, actions: Float[Tensor, "*B H A"], tables: StepTables, context: ContextCache
    ) -> Float[Tensor, "*B H A"]:
        """One Euler step of the action chunk; a token whose two levels are equal stays as it is."""
        raw = self._predict_actions(actions, tables.modulation, context)
        away = actions - raw if self._prediction == "x" else raw
        return actions + away * tables.gain

    def denoise_step(
        self,
        actions: Float[Tensor, "B H A"],
        sigma: Float[Tensor, "B ..."],
        sigma_next: Float[Tensor, "B ..."],
        context: ContextCache,
    ) -> Float[Tensor, "B H A"]:
        """One Euler step of the action chunk from sigma to sigma_next."""
        return self.denoise(actions, self.step_tables(sigma, sigma_next), context)

    # -- predictions --------------------------------------------------------------------------------------------------

    def predict_actions(
        self, actions: Float[Tensor, "B H A"], sigma: Float[Tensor, "B ..."], context: ContextCache
    ) -> Float[Tensor, "B H A"]:
        """Raw output of the action expert in the fast question: clean chunk or velocity, as configured."""
        return self._predict_actions(actions, self.experts["action"].modulate(_per_token(sigma)), context)

    def action_velocity(
        self, actions: Float[Tensor, "B H A"], sigma: Float[Tensor, "B ..."], context: ContextCache
    ) -> Float[Tensor, "B H A"]:
        """Velocity of the action chunk in the fast question."""
        return self._as_velocity(self.predict_actions(actions, sigma, context), actions, sigma)

    def video_velocity(
        self,
        video: Float[Tensor, "B M Z"],
        sigma: Float[Tensor, "B ..."],
        context: ContextCache,
        cross: Mapping[str, LayersKV],
        condition: Float[Tensor, "B M C"] | None = None,
    ) -> Float[Tensor, "B M Z"]:
        """Velocity of the future video tokens, isolated from actions."""
        cached = {Group.FRAME: context.frame}
        return self.predict(Question.POLICY, cached, cross, video=(video, sigma, condition)).video

    def cross_kv(
        self,
        proprio: Float[Tensor, "*B P"],
        prompt: PromptCache,
        image: Float[Tensor, "*B I W"] | None = None,
    ) -> dict[str, LayersKV]:
        """Appends the proprio token to the instruction's keys and values: (B, h, T + 1, d) per expert and layer.

        With an image encoder's tokens comes a third entry, "image": theirs.
        """
        tokens = self._text_kv(self.proprio_in(proprio)[..., None, :])  # of (B, 1, W)
        cross = {name: append_layers(words, tokens[name]) for name, words in prompt._asdict().items()}
        return cross if image is None else {**cross, "image": self.experts["video"].image_kv(image)}

    def observation_kv(
        self,
        proprio: Float[Tensor, "*B P"],
        prompt: PromptCache,
        image: Float[Tensor, "*B I W"] | None = None,
    ) -> dict[str, LayersKV]:
        """As ``cross_kv``, of all instants: (B, T, P) proprio where there are several.

        A further entry, "frame", is what each instant attends to: the instruction and its own proprio.
        """
        if self.config.n_instants == 1:
            return self.cross_kv(proprio, prompt, image)
        own = self.experts["video"].text_kv(self.proprio_in(proprio)[..., None, :])  # (B, T, h, 1, d) per layer
        instants = self.config.n_instants
        words = map_layers(lambda kv: kv.unsqueeze(-4).expand(*kv.shape[:-3], instants, *kv.shape[-3:]), prompt.video)
        return {**self.cross_kv(proprio[..., -1, :], prompt, image), "frame": append_layers(words, own)}

    def predict(
        self,
        question: Question | str,
        cached: Mapping[Group, LayersKV],
        cross: Mapping[str, LayersKV],
        *,
        video: NoisyVideo | None = None,
        actions: tuple[Tensor, Tensor] | None = None,
    ) -> Predictions:
        """Predicts groups from cached ones and from each other.

        Args:
            question: Who may see whom.
            cached: Keys and values of groups computed earlier: the observation, and what ``lend`` returned.
            cross: What ``cross_kv`` returned.
            video: Future video tokens, their noise levels and condition (``wam.caches.NoisyVideo``); None where the
                future is absent or cached.
            actions: ((B, H, A) normalised chunk at its noise level, (B,) or (B, S) sigma), or None.
        """
        out = self._run(self._enter_noisy(video, actions), cached, cross, question).out
        return self._predictions(out, video, actions)

    def lend(
        self,
        question: Question | str,
        cached: Mapping[Group, LayersKV],
        cross: Mapping[str, LayersKV],
        *,
        video: NoisyVideo | None = None,
        actions: tuple[Tensor, Tensor] | None = None,
    ) -> dict[Group, LayersKV]:
        """Keys and values of given groups whose prediction nobody needs, to be cached; arguments as ``predict``."""
        groups = self._enter_noisy(video, actions)
        return {**cached, **self._run(groups, cached, cross, question, silent=groups).kv}

    def forward(
        self,
        tokens: Float[Tensor, "B N Z"],
        proprio: Float[Tensor, "B *T P"],
        prompt: PromptCache,
        question: Question | str,
        *,
        video: NoisyVideo | None = None,
        actions: tuple[Tensor, Tensor] | None = None,
        image: Float[Tensor, "B I W"] | None = None,
    ) -> Predictions:
        """All groups in one pass, nothing cached.

        Args:
            tokens: Clean video tokens of the observation, of all its instants.
            proprio: Normalised proprio, of each instant.
            prompt: Keys and values of the instruction.
            question: Who may see whom.
            video: As ``predict``.
            actions: As ``predict``.
            image: Image encoder's tokens of the observation, where the model attends to any.
        """
        clean = self.clean_modulation(tokens.new_zeros(len(tokens)))
        groups = {Group.FRAME: self._enter_frame(tokens, clean), **self._enter_noisy(video, actions)}
        cross = self.observation_kv(proprio, prompt, image)
        out = self._run(groups, {}, cross, question, silent=(Group.FRAME,)).out
        return self._predictions(out, video, actions)

    # -- internals ----------------------------------------------------------------------------------------------------

    def _run(
        self,
        groups: Mapping[Group, Stream],
        cached: Mapping[Group, LayersKV],
        cross: Mapping[str, LayersKV],
        question: Question | str,
        silent: Collection[Group] = (),
        past: LayersKV = (),
    ) -> Run:
        """See ``wam.layers.run_layers``."""
        return run_layers(self.config, self.experts, groups, cached, cross, question, silent, past)

    def _predict_actions(self, actions: Tensor, modulation: ExpertModulation, context: ContextCache) -> Tensor:
        groups = {Group.ACTION: self._enter("action", actions, modulation, self.action_positions, self._rope("chunk"))}
        cached, cross = {Group.FRAME: context.frame}, {"action": context.cross, "image": context.image}
        return self._run(groups, cached, cross, Question.POLICY).out[Group.ACTION]

    def _enter_frame(self, tokens: Tensor, modulation: ExpertModulation, instants: int | None = None) -> Stream:
        if self.config.condition_channels:
            tokens = with_condition(tokens, frame_condition(tokens, self.config), self.config)
        count = self.config.n_instants if instants is None else instants
        positions = self.video_positions if count == 1 else self.video_positions.repeat(count, 1)
        cos, sin, turn = self._rope("now")
        if count < self.config.n_instants:  # the newest, up to the present
            earlier = (self.config.n_instants - count) * self.config.tokens_per_frame
            cos, sin = cos[earlier:], sin[earlier:]
        entered = self._enter("video", tokens, modulation, positions, rope.Rope(cos, sin, turn))
        return entered._replace(instants=count)

    def _enter_noisy(self, video: NoisyVideo | None, actions: tuple[Tensor, Tensor] | None) -> dict[Group, Stream]:
        groups = {}
        if video is not None:
            groups[Group.VIDEO] = self._enter_video(*video)
        if actions is not None:
            groups[Group.ACTION] = self._enter_actions(*actions)
        return groups

    def _enter_video(self, tokens: Tensor, sigma: Tensor, condition: Tensor | None = None) -> Stream:
        if self.config.condition_channels:
            tokens = with_condition(tokens, condition, self.config)
        modulation = self.experts["video"].modulate(_per_token(sigma))
        positions = self.video_positions.repeat(self.config.future_latents, 1)
        return self._enter("video", tokens, modulation, positions, self._rope("later"))

    def _enter_actions(self, actions: Tensor, sigma: Tensor) -> Stream:
        modulation = self.experts["action"].modulate(_per_token(sigma))
        return self._enter("action", actions, modulation, self.action_positions, self._rope("chunk"))

    def _enter(
        self, name: str, tokens: Tensor, modulation: ExpertModulation, positions: Tensor, turning: rope.Rope
    ) -> Stream:
        x = self.experts[name].embed(tokens)
        if self.config.learned_positions:
            x = x + positions
        return Stream(x, modulation, turning)

    def _rope(self, table: str) -> rope.Rope:
        return rope.Rope(*(self.get_buffer(f"{table}_{part}") for part in rope.Rope._fields))

    def _text_kv(self, text: Tensor) -> dict[str, LayersKV]:
        video = self.experts["video"].text_kv(text)
        shared = self.config.action_register
        return {"video": video, "action": video if shared else self.experts["action"].text_kv(text)}

    @property
    def _prediction(self) -> str:
        return self.config.action_prediction

    def _predictions(
        self, out: Mapping[Group, Tensor], video: NoisyVideo | None, actions: tuple[Tensor, Tensor] | None
    ) -> Predictions:
        raw, future = out.get(Group.ACTION), out.get(Group.VIDEO)
        velocity = None if raw is None else self._as_velocity(raw, *actions)
        if future is not None and self.config.video_prediction == "x":
            future = velocity_from_x(video[0], future, video[1])
        return Predictions(future, velocity, raw)

    def _as_velocity(self, raw: Tensor, actions: Tensor, sigma: Tensor) -> Tensor:
        return raw if self._prediction == "velocity" else velocity_from_x(actions, raw, sigma)

    def _register_tables(self, name: str, tables: rope.Rope) -> None:
        for part, value in tables._asdict().items():
            self.register_buffer(f"{name}_{part}", value, persistent=False)


def _per_token(sigma: Tensor) -> Tensor:
    return sigma[:, None] if sigma.ndim == 1 else sigma  # (B, 1) or (B, S)
