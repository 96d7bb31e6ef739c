"""What ``wam train`` can be told: one frozen dataclass, the command line and what is saved with every checkpoint."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wam.config import ModelConfig, preset
from wam.dataset_names import ReadAs
from wam.errors import ConfigError, unknown_name
from wam.loss_config import LossConfig
from wam.model_config import OBS_ATTENTIONS
from wam.normalise import MODES
from wam.robot import RobotSpec
from wam.spec import ACTION, OBS_IMAGES, OBS_STATE
from wam.stage_names import STAGE_NAMES, TOKENIZER_STAGE
from wam.transforms import ACTION_SPACES

__all__ = ["TrainConfig"]

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train a world-action model on a LeRobot dataset. The same command goes on after an interruption."""

    dataset: tuple[Path, ...]  # folders of LeRobot v3 datasets (`wam collect` makes one); several are joined
    out: Path  # run folder: checkpoints/, metrics.jsonl, tensorboard/
    shares: tuple[float, ...] = ()  # how often each dataset is drawn, on any scale; default: every frame alike
    robot: str = ""  # robot name or file; default: the one the dataset says it was recorded with
    axes_in_robot_order: bool = False  # columns without names are the robot's axes, in its order
    absolute_actions: bool = False  # actions are positions, although the check takes them for changes of the state
    any_aspect: bool = False  # pictures may have another aspect than the robot file's camera gives
    keys: tuple[str, ...] = ()  # what the datasets call something else: observation.state=state action=actions ...
    stage: str = "full"  # full, tokenizer (autoencoder alone); from --init: distill (one step), inverse (its head)
    init: Path | None = None  # checkpoint or run to start from: its geometry, normalisation and weights are taken over
    preset: str = "tiny"  # model preset; with --init that of the checkpoint
    tokenizer: str = ""  # patches, pixels, or a run of --stage tokenizer; default: the preset's, or that of --init
    wan: Path | None = None  # wan presets: folder of Wan weights in diffusers' form (transformer, vae, text_encoder)
    weights: Path | None = None  # wan presets: Fast-WAM (.pt) or LeRobot checkpoint for the folder's transformer
    freeze_video: bool = False  # keep the video expert as it is: only the action expert and what it reads are trained
    steps: int = 1500  # optimiser steps
    batch_size: int = 32  # observations per step, of all processes together
    learning_rate: float = 3e-3  # peak of the cosine schedule; 1e-3 was clearly worse on this size
    warmup_steps: int = 50  # steps of linear warm-up
    weight_decay: float = 0.01  # AdamW
    clip_norm: float = 1.0  # gradient norm is clipped to this
    ema_decay: float = 0.995  # decay of the averaged weights, about the last 200 steps
    loss: LossConfig = field(default_factory=LossConfig)  # losses; --loss.video-weight 0 trains without video
    action_space: str = "absolute"  # absolute joint targets, or relative to the proprio of the observation
    normalisation: str = "mean_std"  # of proprio and actions: mean_std or quantile (1st and 99th percentile)
    prompt_length: int = 0  # words (umt5: tokens) of the longest instruction; 0: the preset's, or with --init its own
    action_prediction: str = ""  # the action expert predicts the clean chunk (x) or the velocity; default: the preset's
    video_prediction: str = ""  # the video expert predicts clean tokens (x) or the velocity; default: the preset's
    n_obs_steps: int = 0  # instants that the model sees, the present one included; 0: 1, or with --init its own
    obs_stride: int = 0  # control steps between two of them; 0: 4, or with --init its own
    obs_attention: str = ""  # whole (instants see one another; the default) or causal (only earlier ones: can stream)
    obs_lead: int = -1  # causal: instants that lead up to those; -1: as many as make a stream equal to it exactly
    max_prefix: int = 0  # longest prefix of a chunk that training shows clean, for real-time chunking; 0: none
    start_share: float = 0.2  # share of a batch from the first steps of an episode, where directions are decided
    start_steps: int = 8  # how many steps count as first
    idle_keep: int = 3  # frames kept of the tail where nothing moves, so that holding is learned but not overlearned
    validation_share: float = 0.05  # share of the episodes that is never trained on
    validate_every: int = 250  # steps between validations
    save_every: int = 250  # steps between checkpoints
    accumulate: int = 1  # parts of a batch that each process works through before a step: less memory, as many sums
    precision: str = "auto"  # of the forward pass: float32, bfloat16 (mixed), or auto: bfloat16 on GPUs that have it
    seed: int = 0  # of weights, batches and noise
    device: str = "auto"  # cpu, cuda, or auto: cuda where there is one
    # Two wait for each other on a busy machine: a step was seen to take fifty times as long
    threads: int = 1  # CPU threads; on an idle machine a second gains tiny a tenth; 0: as many as torch takes

    def __post_init__(self) -> None:
        if not self.dataset:
            raise ConfigError("dataset names no folder: give at least one LeRobot v3 dataset.")
        if self.shares and (len(self.shares) != len(self.dataset) or min(self.shares) <= 0):
            raise ConfigError(
                f"shares are {', '.join(f'{share:g}' for share in self.shares)} for {len(self.dataset)} dataset(s): "
                "give one positive number per dataset, in the same order, or none."
            )
        self.read_as()  # wrong pairs are said before anything is read
        for name in ("steps", "batch_size", "accumulate", "validate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)} but must be at least 1.")
        if self.stage not in STAGE_NAMES:
            raise ConfigError(unknown_name("stage", self.stage, STAGE_NAMES))
        if STAGE_NAMES[self.stage] and self.init is None:
            raise ConfigError(
                f"stage '{self.stage}' goes on from a trained model: name its run or checkpoint with --init."
            )
        if self.tokenizer and (self.init is not None or self.stage == TOKENIZER_STAGE):
            raise ConfigError(
                f"tokenizer '{self.tokenizer}' cannot be chosen here: a run from --init keeps that of its checkpoint, "
                f"and stage '{TOKENIZER_STAGE}' makes one."
            )
        if self.obs_attention not in ("", *OBS_ATTENTIONS):
            raise ConfigError(unknown_name("observation attention", self.obs_attention, OBS_ATTENTIONS))
        if self.n_obs_steps < 0 or self.obs_stride < 0:
            raise ConfigError(
                f"n_obs_steps {self.n_obs_steps} and obs_stride {self.obs_stride} must be 1 or more, or 0: the default."
            )
        if self.stage != "full" and (self.n_obs_steps or self.obs_stride or self.obs_attention or self.obs_lead >= 0):
            raise ConfigError(
                f"stage '{self.stage}' keeps how far its checkpoint looks back: leave out --n-obs-steps, --obs-stride, "
                "--obs-attention and --obs-lead, or change them in stage full."
            )
        if self.prompt_length < 0 or (self.prompt_length and self.init is not None):
            raise ConfigError(
                f"prompt_length is {self.prompt_length} but must be 1 or more, or 0: the preset's; a run from --init "
                "keeps that of its checkpoint."
            )
        if self.precision not in PRECISIONS:
            raise ConfigError(unknown_name("precision", self.precision, PRECISIONS))
        if self.action_space not in ACTION_SPACES:
            raise ConfigError(unknown_name("action space", self.action_space, ACTION_SPACES))
        if self.normalisation not in MODES:
            raise ConfigError(unknown_name("normalisation", self.normalisation, MODES))
        for name in ("start_share", "validation_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)} but must lie in [0, 1).")
        if self.learning_rate <= 0 or not 0 < self.ema_decay < 1:
            raise ConfigError(
                f"learning_rate {self.learning_rate} must be positive and ema_decay {self.ema_decay} lie in (0, 1)."
            )

    def model_preset(self, robot: RobotSpec) -> ModelConfig:
        """Geometry of a model from scratch, before what a stage or another tokenizer changes.

        Raises:
            ConfigError: Unknown preset.
        """
        chosen = preset(self.preset, robot)
        return dataclasses.replace(chosen, prompt_length=self.prompt_length) if self.prompt_length else chosen

    def read_as(self) -> ReadAs:
        """What these options say about the datasets.

        Raises:
            ConfigError: A pair of keys is none.
        """
        pairs = [pair.partition("=") for pair in self.keys]
        for pair, (ours, _, theirs) in zip(self.keys, pairs, strict=True):
            if not theirs or not (ours in (OBS_STATE, ACTION) or ours.startswith(f"{OBS_IMAGES}.")):
                raise ConfigError(
                    f"keys has '{pair}' but wants pairs of our name and the dataset's: --keys {OBS_STATE}=state "
                    f"{ACTION}=actions {OBS_IMAGES}.front=image"
                )
        return ReadAs(
            robot_order=self.axes_in_robot_order,
            absolute_actions=self.absolute_actions,
            any_aspect=self.any_aspect,
            keys={ours: theirs for ours, _, theirs in pairs},
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def check_same_run(self, earlier: dict[str, Any]) -> None:
        """Refuses to continue a run that was started with other settings.

        Raises:
            ConfigError: Names every option that differs, except those that do not change the result.
        """
        free = {"out", "threads", "device", "save_every", "validate_every"}
        # An option that did not exist when the run was started was at its default
        defaults = type(self)(dataset=self.dataset, out=self.out).to_dict()
        before = defaults | earlier | {"loss": defaults["loss"] | earlier.get("loss", {})}
        changed = [
            f"{name} was {before[name]!r}, now {value!r}"
            for name, value in self.to_dict().items()
            if name not in free and before[name] != value
        ]
        if changed:
            raise ConfigError(
                f"{self.out} holds a run with other settings ({'; '.join(changed)}): give the same settings to go on, "
                "or another --out to start anew."
            )
