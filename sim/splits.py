"""Which episode seeds belong to demonstrations, to checkpoint choice and to the test: never the same seed twice.

A seed fixes everything random of an episode, so disjoint ranges are what keeps a test honest: demonstrations use
[0, 1e5), validation (checkpoint choice) [1e5, 2e5) and tests start at 1e6.
"""

from wam.errors import ConfigError, unknown_name

__all__ = ["SPLITS", "episode_seeds", "split_of"]

SPLITS: dict[str, range] = {
    "demos": range(0, 100_000),
    "validation": range(100_000, 200_000),
    "test": range(1_000_000, 2_000_000),
}


def episode_seeds(split: str, count: int, *, first: int = 0) -> list[int]:
    """Returns ``count`` consecutive seeds of a split.

    Args:
        split: A key of ``SPLITS``.
        count: How many episodes, at least 1.
        first: Offset of the first seed inside the split, at least 0.

    Raises:
        ConfigError: Unknown split, or the split has fewer seeds than asked for.
    """
    if split not in SPLITS:
        raise ConfigError(unknown_name("split", split, SPLITS))
    seeds = SPLITS[split]
    if count < 1:
        raise ConfigError(f"episodes is {count} but must be at least 1.")
    if first < 0 or first + count > len(seeds):
        raise ConfigError(
            f"split '{split}' holds {len(seeds)} seeds, but {count} starting at offset {first} were asked for: "
            "seeds of another split would leak in. Ask for fewer episodes."
        )
    return list(seeds[first : first + count])


def split_of(seed: int) -> str:
    """Returns the split a seed belongs to.

    Raises:
        ConfigError: The seed lies in no split.
    """
    for name, seeds in SPLITS.items():
        if seed in seeds:
            return name
    spans = ", ".join(f"{name} [{seeds.start}, {seeds.stop})" for name, seeds in SPLITS.items())
    raise ConfigError(f"seed {seed} belongs to no split; splits: {spans}.")
