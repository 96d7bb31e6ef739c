"""Random inputs of a bundle's stages, as its backends take them."""

import numpy as np

__all__ = ["noise", "observation", "words"]


def observation(manifest, seed):
    """Images of every camera and proprio."""
    rng = np.random.default_rng(seed)
    model = manifest.model
    images = rng.integers(0, 256, (model.n_cameras, *model.image_size_px, 3), dtype=np.uint8)
    return images, rng.standard_normal(model.state_dim, dtype=np.float32)


def noise(manifest, seed):
    """(H, A) start of a chunk."""
    shape = (manifest.chunk_length, manifest.model.action_dim)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def words(manifest, seed):
    """Word ids of an instruction."""
    return np.random.default_rng(seed).integers(0, 100, manifest.model.prompt_length)
