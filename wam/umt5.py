"""Instructions as embeddings of a frozen UMT5 encoder, each computed once and kept on disk.

Padding is zeroed but visible: cross-attention sees all T tokens, as in Wan and Fast-WAM. The encoder (11 GB for
UMT5-XXL in bfloat16) is loaded only when an instruction is not in the cache. A cached file is named after everything it
depends on: the encoder's files, the prompt and its length.

Shape legend: T prompt length in tokens, W width of an embedding.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wam.errors import CheckpointError, DatasetError
from wam.text import instruction_words
from wam.weight_kinds import check_folder

__all__ = ["PROMPT_TEMPLATE", "TextEncoder"]

logger = logging.getLogger(__name__)

# What Fast-WAM's weights were trained with; LeRobot's version uses the same words.
PROMPT_TEMPLATE = "A video recorded from a robot's point of view executing the following instruction: {task}"
ENCODER_FOLDER, TOKENIZER_FOLDER = "text_encoder", "tokenizer"  # of a diffusers folder
SAMPLED_BYTES = 1 << 16  # read at a time from a weights file for its fingerprint,
SAMPLED_EVERY = 1 << 24  # ... this far apart: every matrix of UMT5-XXL is larger, so another one in its place shows
KEY = "embedding"


class TextEncoder:
    """UMT5 of a diffusers folder with a cache on disk.

    Args:
        folder: Folder with ``text_encoder/`` and ``tokenizer/``, as Wan-AI/Wan2.2-TI2V-5B-Diffusers has them.
        cache: Folder of the cached embeddings; made when needed.
        length: Prompt length T; longer prompts are refused.
        dtype: Of the encoder; embeddings are always float32.
        device: Where the encoder runs.

    Raises:
        CheckpointError: The folder holds no text encoder.
    """

    def __init__(
        self,
        folder: Path,
        cache: Path,
        *,
        length: int,
        dtype: torch.dtype = torch.bfloat16,
        device: torch.device | str = "cpu",
    ) -> None:
        for name in (ENCODER_FOLDER, TOKENIZER_FOLDER):
            if not (folder / name).is_dir():
                raise CheckpointError(
                    f"no {name} in {folder}: give a folder in diffusers' form, such as a download of "
                    "Wan-AI/Wan2.2-TI2V-5B-Diffusers."
                )
        self._folder, self._cache, self._length = folder, cache, length
        self._dtype, self._device = dtype, device
        self._identity = _fingerprint(folder)

    def encode(self, tasks: Sequence[str]) -> np.ndarray:
        """Embeds instructions, in words as a dataset has them.

        Returns:
            (len(tasks), T, W) float32; zeros where there is no word.

        Raises:
            DatasetError: An instruction has more than T tokens, those around it included.
            CheckpointError: The encoder cannot be read.
        """
        prompts = [" ".join(PROMPT_TEMPLATE.format(task=task).split()) for task in tasks]
        found = {prompt: self._cached(prompt) for prompt in dict.fromkeys(prompts)}
        missing = [prompt for prompt, embedding in found.items() if embedding is None]
        if missing:
            found |= self._compute(missing)
        _say_alike(found)
        return np.stack([found[prompt] for prompt in prompts])

    def path(self, prompt: str) -> Path:
        """File of one whole prompt, template included."""
        key = hashlib.sha256(f"{self._identity}\0{self._length}\0{self._dtype}\0{prompt}".encode()).hexdigest()
        return self._cache / f"{key}.safetensors"

    def _cached(self, prompt: str) -> np.ndarray | None:
        path = self.path(prompt)
        if not path.is_file():
            return None
        try:
            embedding = load_file(path)[KEY]
        except (OSError, SafetensorError, KeyError):
            return None  # half a file, after a full disk for instance: computed and written again
        # Earlier versions cut a prompt without a word: one that fills every place is counted again
        return None if embedding[-1].any() else embedding

    @torch.no_grad()
    def _compute(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        from transformers import AutoTokenizer, UMT5EncoderModel

        check_folder(self._folder / ENCODER_FOLDER)  # transformers would take float8 for plain values
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder / TOKENIZER_FOLDER, local_files_only=True)
            tokens = {prompt: tokenizer(prompt).input_ids for prompt in prompts}
            self._check_length(tokens)
            encoder = UMT5EncoderModel.from_pretrained(
                self._folder / ENCODER_FOLDER, dtype=self._dtype, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"text encoder in {self._folder} cannot be read ({error}): copy it again.") from error
        encoder.to(self._device).eval()
        found = {}
        for prompt in prompts:
            padded = tokenizer(prompt, padding="max_length", max_length=self._length, return_tensors="pt")
            padded = padded.to(self._device)
            out = encoder(input_ids=padded.input_ids, attention_mask=padded.attention_mask).last_hidden_state[0]
            embedding = (out.float() * padded.attention_mask[0, :, None]).cpu().numpy()  # (T, W)
            self._write(prompt, embedding)
            found[prompt] = embedding
        return found

    def _check_length(self, tokens: Mapping[str, Sequence[int]]) -> None:
        """Before the encoder is read, which takes a while."""
        long = {prompt: len(ids) for prompt, ids in tokens.items() if len(ids) > self._length}
        if long:
            found = "; ".join(f"'{prompt}' has {count} tokens" for prompt, count in long.items())
            raise DatasetError(
                f"{found}, but the model reads {self._length}: the end of an instruction would not count. Say it "
                f"shorter, or let a model from scratch read more: --prompt-length {max(long.values())}"
            )

    def _write(self, prompt: str, embedding: np.ndarray) -> None:
        self._cache.mkdir(parents=True, exist_ok=True)
        final = self.path(prompt)
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        save_file({KEY: embedding}, partial, metadata={"prompt": prompt})
        partial.replace(final)


def _say_alike(found: Mapping[str, np.ndarray | None]) -> None:
    first: dict[bytes, str] = {}
    for prompt, embedding in found.items():
        other = first.setdefault(hashlib.sha256(np.ascontiguousarray(embedding)).digest(), prompt)
        if instruction_words(other) != instruction_words(prompt):
            logger.warning("'%s' and '%s' are the same to the text encoder: say one in other words.", other, prompt)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted((*(folder / ENCODER_FOLDER).iterdir(), *(folder / TOKENIZER_FOLDER).iterdir())):
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.parent.name}/{path.name}\0{size}\0".encode())
            with path.open("rb") as file:
                for start in (*range(0, size, SAMPLED_EVERY), max(0, size - SAMPLED_BYTES)):
                    file.seek(start)
                    digest.update(file.read(SAMPLED_BYTES))
    return digest.hexdigest()
