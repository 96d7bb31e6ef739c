"""What a training run asks and how it weighs the answers, as plain data: options are read before torch is imported."""

import dataclasses
from dataclasses import dataclass, field

from wam.errors import ConfigError, unknown_name

__all__ = ["NOISE_MODES", "WEIGHTINGS", "LossConfig", "QuestionMix"]

NOISE_MODES = ("independent", "coupled", "flash")
WEIGHTINGS = ("bell", "flat")


@dataclass(frozen=True, kw_only=True)
class QuestionMix:
    """Share of the training samples that each question gets; any positive scale."""

    policy: float = 1.0  # p(a | o), actions never see the future; the fast question of the control loop
    joint: float = 0.0  # p(o', a | o), both denoised, each sees the other
    inverse: float = 0.0  # p(a | o, o'), clean future
    forward: float = 0.0  # p(o' | o, a), clean actions

    def __post_init__(self) -> None:
        shares = dataclasses.astuple(self)
        if any(not 0 <= share < float("inf") for share in shares) or sum(shares) <= 0:
            raise ConfigError(
                f"question shares are policy {self.policy}, joint {self.joint}, inverse {self.inverse}, forward "
                f"{self.forward}: none may be negative and at least one must be positive."
            )

    @property
    def only_policy(self) -> bool:
        """No other question is ever asked."""
        return self.joint == self.inverse == self.forward == 0


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is asked, how noisy it is, and the weights of the training loss."""

    questions: QuestionMix = field(default_factory=QuestionMix)  # share of the samples that each question gets
    video_weight: float = 0.5  # weight of the future-frame loss; 0 trains the policy alone and skips that pass
    video_share: float = 0.5  # share of a batch that predicts the future frame; half costs half and learned as much
    noise_draws: int = 2  # action noise draws per encoded observation; the context is the dear part
    noise: str = "independent"  # levels of video and actions: independent, coupled or flash (noisy video)
    action_shift: float = 3.0  # shift of the action noise level; above 1 leans to noise, where the decision is made
    video_shift: float = 5.0  # shift of the video noise level, as Wan
    action_weighting: str = "flat"  # loss weight by noise level, of actions: flat, or bell (most in the middle)
    video_weighting: str = "bell"  # the same of video
    weight_floor: float = 0.0  # share of a flat weight mixed into the bell, so that sigma 1 counts: few steps need it
    prefix_share: float = 0.5  # share of the samples that see a clean prefix of their chunk, if the model allows one
    colour_weight: float = 4.0  # stage tokenizer: extra weight of a fully saturated pixel; 0 treats all pixels alike
    latent_noise: float = 0.05  # stage tokenizer: noise on the latents, whose spread is about 1

    def __post_init__(self) -> None:
        if self.noise not in NOISE_MODES:
            raise ConfigError(unknown_name("noise mode", self.noise, NOISE_MODES))
        for weighting in (self.action_weighting, self.video_weighting):
            if weighting not in WEIGHTINGS:
                raise ConfigError(unknown_name("loss weighting", weighting, WEIGHTINGS))
        for name in ("video_share", "weight_floor", "prefix_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must lie in [0, 1].")
        for name in ("colour_weight", "latent_noise"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 0.")
        if self.noise == "flash" and self.video_weighting == "bell" and self.weight_floor == 0:
            raise ConfigError(
                "noise 'flash' keeps the video near sigma 1, where the bell weight is 0, and weight_floor is 0: give "
                "weight_floor a value (0.1 is one) or set video_weighting to flat."
            )
        if self.video_weight == 0 and not self.questions.only_policy:
            raise ConfigError(
                "video_weight is 0 but questions about the future are asked (joint, inverse or forward): give it a "
                "weight, or ask for the policy only."
            )
