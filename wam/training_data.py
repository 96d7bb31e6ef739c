"""From a dataset folder to everything a training loop reads: episodes, transforms, samplers."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wam.batches import FrameSampler
from wam.checkpoint import Checkpoint, load_checkpoint
from wam.config import ModelConfig
from wam.dataset import Episodes, join_episodes, load_episodes
from wam.dataset_check import DatasetSummary, check_numbers, chosen_robot, say
from wam.dataset_motion import check_lengths
from wam.dataset_pictures import fit_notes
from wam.dataset_words import check_words, joined_instructions
from wam.errors import DatasetError
from wam.normalise import Normaliser
from wam.pretrained import embed_tasks
from wam.robot import RobotSpec
from wam.stage_names import TOKENIZER_STAGE
from wam.text import joined
from wam.tokenizer_stage import choose_tokenizer
from wam.train_config import TrainConfig
from wam.transforms import Transforms

__all__ = ["TrainingData", "prepare"]

logger = logging.getLogger(__name__)

INVERSE_HEAD_WIDTH = 64  # of a head that a checkpoint gets: 0.2 M parameters
TOKENIZER_FRAMES = 512  # frames the tokenizer is fitted to: some 100 000 patches, one second


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """All a run reads and never changes."""

    robot: RobotSpec
    model_config: ModelConfig
    episodes: Episodes
    transforms: Transforms
    training: FrameSampler
    validation: FrameSampler
    base: Checkpoint | None = None  # what the run starts from, if not from scratch
    content: tuple[str, ...] = ()  # sha256 of what each dataset holds
    prompts: np.ndarray | None = None  # (tasks, T, W) embeddings of the instructions, where a text encoder makes them
    instructions: tuple[str, ...] | None = None  # what the policy will have been trained on; None: nobody knows

    def tokenizer_images(self) -> np.ndarray:
        """(M', K, height, width, 3) uint8 images spread over the training episodes."""
        return self.episodes.frames[self.training.spread(TOKENIZER_FRAMES)]


def prepare(config: TrainConfig, progress: Callable[[int, int], None] | None = None) -> TrainingData:
    """Reads the dataset, splits it by episode and fits the transforms to the training part.

    Args:
        config: The run.
        progress: Called with (episodes decoded, episodes in all).

    Raises:
        DatasetError: The dataset is missing, damaged, too small or does not fit the robot.
        RobotSpecError: Unknown robot.
        ConfigError: Unknown preset.
        CheckpointError: The checkpoint to start from cannot be read or is of another robot.
    """
    robot = chosen_robot(config.robot, config.dataset[0])
    checked = check_numbers(config.dataset, robot, config.read_as())
    base = None if config.init is None else load_checkpoint(config.init, robot=robot)
    model_config = _model_config(config, robot) if base is None else _continued(config, base)
    tables = [summary.tables for summary in checked]
    if model_config.text == "words" and config.stage != TOKENIZER_STAGE:
        check_words(tables, model_config.prompt_length, from_scratch=base is None)
    tasks = joined_instructions([table.instructions for table in tables])
    prompts = embed_tasks(model_config, config.wan, config.out / "cache" / "text", tasks)
    height, width = model_config.image_size_px
    caches = [
        config.out / "cache" / f"frames_{height}x{width}{f'_{i}' if i else ''}.u8" for i in range(len(config.dataset))
    ]
    _say_once(checked, robot, model_config)
    parts = [
        load_episodes(root, robot, model_config.image_size_px, cache=cache, progress=progress, checked=summary)
        for root, cache, summary in zip(config.dataset, caches, checked, strict=True)
    ]
    episodes = join_episodes(parts)
    owner = np.repeat(np.arange(len(parts)), [len(part.length) for part in parts])
    training, held_out = _split(len(episodes.length), config)
    return TrainingData(
        robot=robot,
        model_config=model_config,
        episodes=episodes,
        transforms=base.transforms if base else _fit_transforms(config, model_config, episodes, training, robot),
        training=_sampler(config, episodes, training, owner),
        validation=_sampler(config, episodes, held_out, owner),
        base=base,
        content=tuple(part.content for part in parts),
        prompts=prompts,
        instructions=_trained_on(config, base, episodes, training),
    )


def _trained_on(
    config: TrainConfig, base: Checkpoint | None, episodes: Episodes, training: np.ndarray
) -> tuple[str, ...] | None:
    """What the policy will know: what it knew, and the instructions of the episodes that it now learns from."""
    if config.stage != "full" and base is not None:  # a head, or fewer steps: the words mean what they meant before
        return base.instructions
    frames = np.isin(episodes.episode_of_frame, training)
    own = joined((), (episodes.tasks[place] for place in np.unique(episodes.task_index[frames])))
    if base is None:
        return own
    if base.instructions is None:
        logger.warning(
            "%s does not say which instructions it was trained on: the new checkpoint lists those of these datasets "
            "alone (%d).",
            base.path,
            len(own),
        )
    return joined(base.instructions or (), own)


def _say_once(checked: Sequence[DatasetSummary], robot: RobotSpec, model_config: ModelConfig) -> None:
    for summary in checked:
        short = check_lengths(summary.root, np.array(summary.lengths), model_config.chunk_length)
        fitted = fit_notes(summary.pictures, robot, model_config.image_size_px)
        say(dataclasses.replace(summary, notes=(*summary.notes, *short, *fitted)))


def _model_config(config: TrainConfig, robot: RobotSpec) -> ModelConfig:
    base = choose_tokenizer(config.model_preset(robot), config.tokenizer, config.stage)
    prediction = config.action_prediction or base.action_prediction
    chosen = dataclasses.replace(
        base,
        action_prediction=prediction,
        video_prediction=config.video_prediction or base.video_prediction,
        max_prefix=config.max_prefix,
    )
    return _looking_back(config, chosen)


def _continued(config: TrainConfig, base: Checkpoint) -> ModelConfig:
    wanted = config.stage == "inverse" and not base.config.inverse_head
    kept = dataclasses.replace(base.config, inverse_head=INVERSE_HEAD_WIDTH) if wanted else base.config
    return _looking_back(config, kept)


def _looking_back(config: TrainConfig, base: ModelConfig) -> ModelConfig:
    """How far observations look back: as asked, else as it was. No weight depends on it, so a checkpoint can change."""
    names = ("n_obs_steps", "obs_stride", "obs_attention")
    asked = {name: getattr(config, name) for name in names if getattr(config, name)}
    if not asked and config.obs_lead < 0:
        return base
    changed = dataclasses.replace(base, **asked, obs_lead=0)
    lead = changed.full_lead if changed.obs_attention == "causal" else 0
    return dataclasses.replace(changed, obs_lead=lead if config.obs_lead < 0 else config.obs_lead)


def _split(count: int, config: TrainConfig) -> tuple[np.ndarray, np.ndarray]:
    if count < 2:
        raise DatasetError(
            f"dataset {', '.join(map(str, config.dataset))} has {count} episode(s): training and validation need one "
            "each; record more."
        )
    order = np.random.default_rng(config.seed).permutation(count)
    held_out = min(count - 1, max(1, round(count * config.validation_share)))
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _fit_transforms(
    config: TrainConfig, model_config: ModelConfig, episodes: Episodes, chosen: np.ndarray, robot: RobotSpec
) -> Transforms:
    frames = np.flatnonzero(np.isin(episodes.episode_of_frame, chosen))
    proprio = Normaliser.fit(episodes.proprio[frames], config.normalisation)
    bare = Transforms(
        image_size_px=model_config.image_size_px,
        proprio=proprio,
        action=proprio,
        action_space=config.action_space,
        gripper=robot.gripper is not None,
        image_fit={camera.name: camera.fit for camera in robot.cameras},
    )
    chunks = bare.relative_to(episodes.chunks(frames, model_config.chunk_length)[0], episodes.proprio[frames])
    return dataclasses.replace(bare, action=Normaliser.fit(chunks, config.normalisation))


def _sampler(config: TrainConfig, episodes: Episodes, chosen: np.ndarray, owner: np.ndarray) -> FrameSampler:
    return FrameSampler(
        episodes,
        chosen,
        seed=config.seed,
        start_share=config.start_share,
        start_steps=config.start_steps,
        idle_keep=config.idle_keep,
        owner=owner,
        shares=config.shares,
    )
