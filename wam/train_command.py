"""``wam train``: reads the options and the datasets' numbers, then starts what is heavy.

Importing torch and lerobot takes seconds, half a minute on a busy machine; a wrong column name is known before.
"""

import sys

import tyro

from wam.dataset_check import check_numbers, chosen_robot
from wam.dataset_words import check_words
from wam.stage_names import TOKENIZER_STAGE
from wam.train_config import TrainConfig

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam train``."""
    config = tyro.cli(TrainConfig, args=argv, prog="wam train")
    robot = chosen_robot(config.robot, config.dataset[0])
    checked = check_numbers(config.dataset, robot, config.read_as())
    if config.init is None and config.stage != TOKENIZER_STAGE:  # how much a checkpoint reads is known with torch alone
        model = config.model_preset(robot)
        if model.text == "words":
            check_words([summary.tables for summary in checked], model.prompt_length)
    from wam.train import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
