"""``wam train``: reads the options and the datasets' numbers, then starts what is heavy.

Importing torch and lerobot takes seconds, half a minute on a busy machine; a wrong column name is known before.
"""

import sys

import tyro

from wam.dataset_check import check_numbers, chosen_robot
from wam.train_config import TrainConfig

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam train``."""
    config = tyro.cli(TrainConfig, args=argv, prog="wam train")
    check_numbers(config.dataset, chosen_robot(config.robot, config.dataset[0]), config.read_as())
    from wam.train import run

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
