"""The instruction as word ids, without a vocabulary file and without torch.

Small presets learn one embedding row per word; a word's row is the CRC-32 of its lower-case letters. The hash is stable
across machines and Python versions, unlike ``hash``. Real language encoders (UMT5) belong to the Wan presets.

Shape legend: T prompt length in words.
"""

import re
import zlib

import numpy as np

__all__ = ["PAD_ID", "VOCABULARY_SIZE", "token_ids"]

PAD_ID = 0
VOCABULARY_SIZE = 4096  # rows of the embedding: 50 words collide with a chance of 26 %, one given pair with 1 in 4095


def token_ids(task: str, length: int) -> np.ndarray:
    """Hashes an instruction word by word.

    Args:
        task: The instruction in words; case and punctuation do not matter.
        length: Prompt length T; longer instructions are cut, shorter ones padded with ``PAD_ID``.

    Returns:
        (T,) int64 ids in [0, VOCABULARY_SIZE).
    """
    words = re.findall(r"\w+", task.lower())[:length]
    ids = np.full(length, PAD_ID, dtype=np.int64)
    ids[: len(words)] = [1 + zlib.crc32(word.encode()) % (VOCABULARY_SIZE - 1) for word in words]
    return ids
