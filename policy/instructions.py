"""What a policy is told beside what it was trained on: an unseen instruction is said, one it cannot read refused.

Nothing a network gives back tells whether it knows the words: it acts on any.
"""

import functools
from collections import OrderedDict

import numpy as np

from wam.errors import ValueContractError
from wam.manifest import Manifest
from wam.text import instruction_words, is_known, listed, nearest, token_ids, too_long, untold

__all__ = ["Instructions"]

REMEMBERED = 256  # instructions that were warned of; the oldest is forgotten, so free text cannot fill the memory


class Instructions:
    """The instructions of one bundle.

    Args:
        manifest: Of the bundle.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.known = manifest.instructions  # None where the bundle does not tell
        self.quiet = False  # True where somebody else says what ``news`` would
        self._length = manifest.model.prompt_length
        self._counts_words = manifest.model.text == "words"
        self._said: OrderedDict[str, None] = OrderedDict()
        # Diagnostics ask every second, and comparing with hundreds of instructions takes longer than a tick may be late
        self._compared = functools.lru_cache(maxsize=REMEMBERED)(self._compare)

    def __str__(self) -> str:
        return listed(self.known)

    def ids(self, task: str) -> np.ndarray:
        """(T,) int64 word ids.

        Raises:
            ValueContractError: The instruction is longer than the model reads.
        """
        self.check(task)
        return token_ids(task, self._length)

    def check(self, task: str) -> None:
        """Refuses what a model would not read to its end.

        Raises:
            ValueContractError: The instruction is longer than the model reads.
        """
        problem = self.problem(task)
        if problem:
            raise ValueContractError(problem)

    def problem(self, task: str) -> str:
        """Why the instruction cannot be read, and what to do; "" if it can."""
        problem = too_long(task, self._length) if self._counts_words else ""
        example = f", such as '{nearest(task, self.known)}'" if problem and self.known else ""
        return f"{problem}. Say it in {self._length} words or fewer{example}" if problem else ""

    def warning(self, task: str) -> str:
        """That the policy never saw the instruction, and the nearest that it did; "" if it did, or nobody knows."""
        return untold(task, self.known)

    def news(self, task: str) -> str:
        """``warning``, the first time that it is asked for; "" from then on."""
        warning = "" if self.quiet or task in self._said else self.warning(task)
        if warning:
            self._said[task] = None
            while len(self._said) > REMEMBERED:
                self._said.popitem(last=False)
        return warning

    def status(self, task: str) -> dict[str, str]:
        """For diagnostics: whether the instruction is known, and the nearest one if it is not."""
        return dict(self._compared(task))

    def _compare(self, task: str) -> dict[str, str]:
        if self.known is None or not instruction_words(task):
            return {"task_known": "unknown"}
        if is_known(task, self.known):
            return {"task_known": "yes"}
        return {"task_known": "no", "task_nearest": nearest(task, self.known)}
