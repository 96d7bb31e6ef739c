"""Training batches of random content, the same ones at every call."""

import torch

from wam.batches import Batch
from wam.config import ModelConfig


def random_batch(config: ModelConfig, size: int = 4) -> Batch:
    """A batch that a model of this configuration trains on; nothing in it is padding."""
    generator = torch.Generator().manual_seed(0)
    shape = (config.n_cameras, *config.image_size_px, 3)
    return Batch(
        images=torch.randint(0, 256, (size, *shape), generator=generator, dtype=torch.uint8),
        future_images=torch.randint(
            0, 256, (size, config.future_frames, *shape), generator=generator, dtype=torch.uint8
        ),
        future_is_pad=torch.zeros(size, config.future_latents, dtype=torch.bool),
        proprio=torch.randn(size, config.action_dim, generator=generator),
        actions=torch.randn(size, config.chunk_length, config.action_dim, generator=generator),
        action_is_pad=torch.zeros(size, config.chunk_length, dtype=torch.bool),
        token_ids=torch.ones(size, config.prompt_length, dtype=torch.int64),
    )
