"""Our network against independent implementations with the same weights: diffusers' Wan and LeRobot's FastWAM core."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.foreign_archives import save_archive
from tests.wan_folders import write_transformer
from wam.config import ModelConfig, preset
from wam.errors import CheckpointError
from wam.fastwam_pair import FastWamPair, build_pair, pair_config
from wam.latents import latents_to_tokens, tokens_to_latents
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.wan_keys import canonical_names, placements
from wam.wan_weights import ROBOT_PARTS, fill_weights, initialise_action_expert, load_weights

ROUNDING = {"atol": 2e-5, "rtol": 1e-5}  # float32 through two layers of random weights; outputs are of size 1 to 6
SMALL = {
    "num_layers": 2,
    "num_heads": 2,
    "head_dim": 12,
    "video_width": 24,
    "video_ffn_width": 40,
    "action_width": 16,
    "action_ffn_width": 24,
    "text_width": 20,
    "prompt_length": 6,
    "frequency_dim": 16,
    "latent_channels": 4,
    "image_size_px": (64, 32),
    "chunk_length": 8,
    "future_offset": 8,
    "proprio_dim": 8,
}


def wan_config(*, image: bool) -> ModelConfig:
    extra = {"image_width": 14, "image_tokens": 5, "condition_channels": 8} if image else {}
    return dataclasses.replace(preset("wan_micro", load_robot("sim6")), **extra)


@pytest.mark.parametrize("image", [False, True], ids=["Wan2.2-TI2V", "Wan2.1-I2V"])
@torch.no_grad()
def test_video_expert_equals_diffusers(tmp_path: Path, image: bool):
    """Noise per token, several latent frames, text; with image-to-video weights also condition and image tokens."""
    config = wan_config(image=image)
    theirs = write_transformer(tmp_path, config)
    ours = WorldActionModel(config).eval()
    report = load_weights(ours, tmp_path)
    assert report.layout == "diffusers"
    assert len(list((tmp_path / "transformer").glob("*.safetensors"))) > 2
    rows, columns = (config.token_patch * side for side in config.grid)
    latents, condition = (
        torch.randn(2, channels, config.future_latents, rows, columns * config.n_cameras)
        for channels in (config.latent_channels, config.condition_channels)
    )
    text, tokens_of_image = torch.randn(2, 512, config.text_width), torch.randn(2, 5, 14)
    sigma = torch.rand(2, config.future_latents).repeat_interleave(config.tokens_per_frame, 1)  # (B, M)
    seen = torch.cat((latents, condition), dim=1) if image else latents
    expected = theirs(seen, 1000 * sigma, text, tokens_of_image if image else None).sample
    video = ours.experts["video"]
    cross = {"video": video.text_kv(text)} | ({"image": video.image_kv(tokens_of_image)} if image else {})
    beside = latents_to_tokens(condition, dataclasses.replace(config, latent_channels=8)) if image else None
    # No cached frame: all latent frames stand in one group and see each other, as in diffusers. That their rotary
    # positions start at 1 here and at 0 there changes nothing, because attention only sees distances.
    got = ours.predict("policy", {}, cross, video=(latents_to_tokens(latents, config), sigma, beside)).video
    assert float(expected.abs().max()) > 1.0
    torch.testing.assert_close(got, latents_to_tokens(expected, config), **ROUNDING)


@pytest.fixture(scope="module")
def pair() -> FastWamPair:
    return build_pair(0, pair_config(**SMALL))


@torch.no_grad()
def test_keys_and_values_equal_lerobots(pair: FastWamPair):
    core, x = pair.theirs, pair.inputs
    mask = torch.ones(x.text.shape[:2], dtype=torch.bool)
    context, mask = core._append_proprio_to_context(x.text, mask, x.proprio)
    state = core.video_expert.pre_dit(x.latents, torch.zeros(1), context, mask, None, True)
    count = state["tokens"].shape[1]
    theirs = core.mot.prefill_video_cache(
        state["tokens"],
        state["freqs"],
        state["t_mod"],
        {"context": state["context"], "mask": state["context_mask"]},
        torch.ones(count, count, dtype=torch.bool),
    )
    ours = pair.ours.encode_context_tokens(x.tokens, pair.ours.cross_kv(x.proprio, pair.our_prompt()))
    for mine, cache in zip(ours.frame, theirs, strict=True):
        torch.testing.assert_close(mine.keys.transpose(1, 2).flatten(2), cache["k"], **ROUNDING)
        torch.testing.assert_close(mine.values.transpose(1, 2).flatten(2), cache["v"], **ROUNDING)


@torch.no_grad()
def test_velocities_equal_lerobots(pair: FastWamPair):
    """Clean frame, two noisy latent frames and the chunk in one pass, with their dense mask."""
    core, x, config = pair.theirs, pair.inputs, pair.ours.config
    noisy = torch.randn(1, config.latent_channels, config.future_latents, *x.latents.shape[3:])
    mask = torch.ones(x.text.shape[:2], dtype=torch.bool)
    context, mask = core._append_proprio_to_context(x.text, mask, x.proprio)
    video, actions = core._predict_joint_noise(
        torch.cat((x.latents, noisy), dim=2), x.noise, torch.tensor([700.0]), torch.tensor([300.0]), context, mask, True
    )
    ours = pair.ours(
        x.tokens,
        x.proprio,
        pair.our_prompt(),
        "policy",
        video=(latents_to_tokens(noisy, config), torch.tensor([0.7])),
        actions=(x.noise, torch.tensor([0.3])),
    )
    torch.testing.assert_close(ours.actions, actions, **ROUNDING)
    torch.testing.assert_close(ours.video, latents_to_tokens(video[:, :, 1:], config), **ROUNDING)


@pytest.mark.parametrize("n_steps", [1, 10])
def test_chunks_equal_lerobots(pair: FastWamPair, n_steps: int):
    ours, theirs = pair.our_chunk(n_steps), pair.their_chunk(n_steps)
    assert float((theirs - pair.inputs.noise).abs().max()) > 0.1
    torch.testing.assert_close(ours, theirs, **ROUNDING)


def fresh(pair: FastWamPair, **changes) -> WorldActionModel:
    torch.manual_seed(3)
    return WorldActionModel(dataclasses.replace(pair.ours.config, **changes))


def lerobot_file(pair: FastWamPair, folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_file({f"model.{name}": tensor.contiguous() for name, tensor in pair.theirs.state_dict().items()}, path)
    return path


def same(model: WorldActionModel, other: WorldActionModel) -> bool:
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    return all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_lerobot_checkpoints_load(pair: FastWamPair, tmp_path: Path):
    model = fresh(pair)
    report = load_weights(model, lerobot_file(pair, tmp_path))
    assert report.layout == "lerobot"
    assert report.loaded == len(placements(model.config))
    assert same(model, pair.ours)


def test_fastwam_releases_load(pair: FastWamPair, tmp_path: Path):
    """As Fast-WAM's ``save_checkpoint`` writes them; the layout was read from its public code, not from a release."""
    mixtures = {}
    for name, tensor in pair.theirs.mot.state_dict().items():
        head, _, rest = name.partition(".")
        if head == "layers":
            layer, _, expert, inner = rest.split(".", 3)
            name = f"mixtures.{expert}.blocks.{layer}.{inner}"
        mixtures[name] = tensor
    payload = {
        "mot": mixtures,
        "step": 5,
        "torch_dtype": "torch.float32",
        "proprio_encoder": pair.theirs.proprio_encoder.state_dict(),
    }
    save_archive(payload, tmp_path / "release.pt")
    model = fresh(pair)
    assert load_weights(model, tmp_path / "release.pt").layout == "fastwam"
    assert same(model, pair.ours)


def test_another_robot_keeps_its_own_parts(pair: FastWamPair, tmp_path: Path):
    path = lerobot_file(pair, tmp_path)
    model = fresh(pair, action_dim=9, proprio_dim=11)
    with pytest.raises(
        CheckpointError, match=r"mis-shaped \(4\).*action\.action_encoder\.weight is \(16, 7\), not \(16, 9\)"
    ):
        load_weights(model, path)
    before = model.experts["action"].embed.weight.clone()
    report = load_weights(model, path, reinitialise=ROBOT_PARTS)
    assert "action.action_encoder.weight" in report.kept
    assert "proprio_encoder.bias" not in report.kept  # it fits, so it is taken over
    assert torch.equal(model.experts["action"].embed.weight, before)
    assert torch.equal(model.experts["action"].blocks[1].qkv.weight, pair.ours.experts["action"].blocks[1].qkv.weight)


def test_what_does_not_fit_is_one_readable_error(pair: FastWamPair, tmp_path: Path):
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in pair.theirs.state_dict().items()}
    for layer in (0, 1):
        prefix = f"model.mot.layers.{layer}.blocks.video.self_attn"
        tensors[f"{prefix}.query.weight"] = tensors.pop(f"{prefix}.q.weight")
    tensors["model.mot.mixtures.video.patch_embedding.weight"] = torch.zeros(24, 6, 1, 2, 2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        load_weights(fresh(pair), tmp_path / "model.safetensors")
    message = str(error.value)
    assert "missing (2): video.blocks.{0-1}.self_attn.q.weight" in message
    assert "unexpected (2): video.blocks.{0-1}.self_attn.query.weight (close: video.blocks.{0-1}.self_attn" in message
    assert "mis-shaped (1): video.patch_embedding.weight is (24, 6, 1, 2, 2), not (24, 4, 1, 2, 2)" in message
    assert "preset 'fastwam_pair'" in message


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, "no weights at"),
        (lambda d: save_file({"weight": torch.ones(1)}, d / "a.safetensors"), "follow no layout known here"),
        (lambda d: (d / "a.safetensors").write_bytes(b"cut"), "missing or cut short"),
        (lambda d: (d / "m.safetensors.index.json").write_text("{"), "index .* cannot be read"),
        (
            lambda d: (d / "m.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "gone.safetensors"}})
            ),
            "names 1 files, of which these are missing: gone.safetensors",
        ),
    ],
)
def test_unreadable_folders(pair: FastWamPair, tmp_path: Path, prepare, message: str):
    prepare(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_weights(pair.ours, tmp_path)


def test_loading_reads_one_tensor_at_a_time(pair: FastWamPair):
    """The source is asked for a tensor only after the last one was copied: memory never holds two copies of a model."""
    alive, most = set(), 0

    class Counting:
        def shapes(self):
            return {name: tuple(p.shape) for name, p in pair.theirs.named_parameters()}

        def read(self, name: str) -> torch.Tensor:
            nonlocal most
            tensor = dict(pair.theirs.named_parameters())[name].detach().clone()
            alive.add(id(tensor))
            import weakref

            weakref.finalize(tensor, alive.discard, id(tensor))
            most = max(most, len(alive))
            return tensor

    fill_weights(fresh(pair), Counting(), origin="a test")
    assert most <= 2  # the new one, while the last one's name still points to the old


def interpolated(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Independent reference: numpy's interpolation along each axis, ends on ends."""
    out = values.astype(np.float64)
    for axis, size in enumerate(shape):
        places = np.linspace(0, out.shape[axis] - 1, size)
        out = np.apply_along_axis(lambda line, at=places: np.interp(at, np.arange(len(line)), line), axis, out)
    if values.ndim > 1 and shape[-1] < values.shape[-1]:
        out = out * np.sqrt(values.shape[-1] / shape[-1])
    return out


def test_action_expert_starts_from_the_video_expert(pair: FastWamPair):
    model = fresh(pair)
    load_weights_of(pair, model)
    head = model.experts["action"].head.linear.weight.clone()
    assert initialise_action_expert(model) > 50
    video, action = model.experts["video"], model.experts["action"]
    for layer in (0, 1):
        mine, source = action.blocks[layer], video.blocks[layer]
        width = source.out.in_features
        for part in range(3):  # queries, keys and values were three tensors
            rows = slice(part * width, (part + 1) * width)
            expected = interpolated(source.qkv.weight[rows].detach().numpy(), (width, 16))
            assert np.allclose(mine.qkv.weight[rows].detach().numpy(), expected, atol=1e-6)
        assert torch.equal(mine.qkv.bias, source.qkv.bias)  # same shape: copied
        expected = interpolated(source.modulation.detach().numpy(), (1, 6, 16))
        assert np.allclose(mine.modulation.detach().numpy(), expected, atol=1e-6)
        expected = interpolated(source.ffn[0].weight.detach().numpy(), (24, 16))
        assert np.allclose(mine.ffn[0].weight.detach().numpy(), expected, atol=1e-6)
    assert torch.equal(action.head.linear.weight, head)  # actions are not latents


def load_weights_of(pair: FastWamPair, model: WorldActionModel) -> None:
    model.load_state_dict(pair.ours.state_dict())


def test_tokens_and_latents_are_inverse(pair: FastWamPair):
    config = pair.ours.config
    latents = torch.randn(2, config.latent_channels, 3, *pair.inputs.latents.shape[3:])
    assert torch.equal(tokens_to_latents(latents_to_tokens(latents, config), config), latents)


def test_every_layout_names_the_same_tensors():
    """Wan's own names and diffusers' meet in one canonical name, block norms changing places."""
    wan = ["blocks.3.norm3.weight", "blocks.3.cross_attn.k_img.bias", "head.modulation", "time_projection.1.weight"]
    diffusers = [
        "blocks.3.norm2.weight",
        "blocks.3.attn2.add_k_proj.bias",
        "scale_shift_table",
        "condition_embedder.time_proj.weight",
    ]
    for mine, theirs in zip(wan, diffusers, strict=True):
        assert canonical_names([theirs], "diffusers") == {theirs: f"video.{mine}"}
        assert canonical_names([mine], "wan") == {mine: f"video.{mine}"}
