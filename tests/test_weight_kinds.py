"""Published weights in every wrapping load or are refused by name; quantised ones are never taken for plain values."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.foreign_archives import save_archive
from wam.config import ModelConfig, preset
from wam.errors import CheckpointError
from wam.model import WorldActionModel
from wam.robot import load_robot
from wam.torch_archive import TorchArchive
from wam.wan_keys import detect_layout, placements
from wam.wan_weights import ROBOT_PARTS, LoadReport, load_weights
from wam.weight_kinds import check_folder

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return preset("wan_micro", load_robot("sim6"))


@pytest.fixture(scope="module")
def release(config: ModelConfig) -> Tensors:
    """Values under the names of a Fast-WAM release, flat."""
    torch.manual_seed(7)
    own = dict(WorldActionModel(config).named_parameters())
    tensors, side = {}, config.token_patch
    for name, place in placements(config).items():
        rows, *others = own[place.target].shape
        shape = (rows // place.parts, *others)
        if place.patches:
            shape = (shape[0], shape[1] // side**2, 1, side, side)
        tensors[name if name.startswith("proprio") else f"mot.mixtures.{name}"] = torch.randn(shape)
    return tensors


@pytest.fixture(scope="module")
def wan(release: Tensors) -> Tensors:
    start = "mot.mixtures.video."
    return {name.removeprefix(start): value for name, value in release.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def nested(*folders: str, tensors: Tensors) -> dict:
    return {folders[0]: nested(*folders[1:], tensors=tensors)} if folders else dict(tensors)


def write(folder: Path, payload: dict, form: str = "safetensors") -> Path:
    path = folder / f"weights.{form}"
    if form == "safetensors":
        save_file({name: value.contiguous() for name, value in payload.items()}, path)
    else:
        save_archive(payload, path)
    return path


def loaded(config: ModelConfig, path: Path, **options) -> tuple[WorldActionModel, LoadReport]:
    torch.manual_seed(11)
    model = WorldActionModel(config)
    return model, load_weights(model, path, **options)


def queries(model: WorldActionModel) -> torch.Tensor:
    return model.experts["video"].blocks[1].qkv.weight[: model.config.num_heads * model.config.head_dim]


QUERIES = "blocks.1.self_attn.q.weight"
WRAPPED: dict[str, tuple[Callable[[Tensors], Tensors], tuple[str, ...]]] = {
    "as released": (dict, ()),
    "fastwam": (lambda t: prefixed("fastwam.", t), ("fastwam.",)),
    "model": (lambda t: prefixed("model.", t), ("model.",)),
    "anything at all": (lambda t: prefixed("my_run.agent7.net.", t), ("my_run.agent7.net.",)),
    "DDP": (lambda t: prefixed("module.", t), ("module.",)),
    "compiled under Lightning": (
        lambda t: prefixed("state_dict.model._orig_mod.", t),
        ("state_dict.model.", "_orig_mod."),
    ),
    "FSDP inside": (
        lambda t: {n.replace("blocks.", "blocks._fsdp_wrapped_module."): v for n, v in t.items()},
        ("_fsdp_wrapped_module.",),
    ),
    "averaged": (lambda t: prefixed("module.", t) | {"n_averaged": torch.tensor(3)}, ("module.",)),
    "beside other parts": (
        lambda t: (
            prefixed("policy.", t)
            | {
                "policy.vae.model.encoder.conv1.weight": torch.zeros(3),
                "policy.train_video_scheduler.sigmas": torch.ones(4),
            }
            | {"optimizer.state.0.exp_avg": torch.zeros(2), "optimizer.state.0.step": torch.tensor(1)}
        ),
        ("policy.",),
    ),
}


@pytest.mark.parametrize("form", ["safetensors", "pt"])
@pytest.mark.parametrize("kind", list(WRAPPED))
def test_any_wrapping_is_taken_off_and_said(
    config: ModelConfig, release: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, form: str
):
    wrap, expected = WRAPPED[kind]
    with caplog.at_level(logging.INFO):
        model, report = loaded(config, write(tmp_path, wrap(release), form))
    assert (report.layout, set(report.stripped)) == ("fastwam", set(expected))
    assert report.loaded == len(placements(config))
    assert torch.equal(queries(model), release[f"mot.mixtures.video.{QUERIES}"])
    assert all(f"'{prefix}'" in caplog.text for prefix in expected)


@pytest.mark.parametrize("folders", [("dit",), ("model", "diffusion_model"), ("state_dict", "ema"), ()])
def test_nested_dictionaries_are_a_prefix(config: ModelConfig, wan: Tensors, tmp_path: Path, folders: tuple[str, ...]):
    model, report = loaded(config, write(tmp_path, nested(*folders, tensors=wan), "pt"))
    assert (report.layout, report.stripped) == ("wan", tuple(filter(None, (".".join((*folders, "")).lstrip("."),))))
    assert torch.equal(queries(model), wan[QUERIES])


def test_a_release_in_its_dictionaries_loads(config: ModelConfig, release: Tensors, tmp_path: Path):
    network = {n.removeprefix("mot."): v for n, v in release.items() if n.startswith("mot.")}
    proprio = {n.removeprefix("proprio_encoder."): v for n, v in release.items() if n.startswith("proprio")}
    payload = {
        "mot": prefixed("module.", network),
        "proprio_encoder": proprio,
        "step": 5,
        "torch_dtype": torch.bfloat16,
    }
    model, report = loaded(config, write(tmp_path, payload, "pt"))
    assert report.loaded == len(placements(config))
    assert torch.equal(model.proprio_in.weight, release["proprio_encoder.weight"])


def test_several_networks_in_one_file_are_refused(config: ModelConfig, wan: Tensors, tmp_path: Path):
    both = prefixed("model.", wan) | prefixed("ema.", {name: value.clone() for name, value in wan.items()})
    with pytest.raises(CheckpointError, match=r"hold 2 networks, under 'ema\.', 'model\.'.*python -c .*load_file"):
        loaded(config, write(tmp_path, both))


def test_what_nobody_knows_stays_an_error(config: ModelConfig, release: Tensors, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"(?s)behind 'x\.'.*unexpected \(1\): value_head\.out\.weight"):
        loaded(config, write(tmp_path, prefixed("x.", release | {"value_head.out.weight": torch.zeros(2, 2)})))


MATRICES = (".q.weight", ".k.weight", ".v.weight", ".o.weight", "ffn.0.weight", "ffn.2.weight")


def narrow(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return {n: (v * 20).to(dtype) if n.endswith(MATRICES) and ".blocks." in f".{n}" else v for n, v in tensors.items()}


def beside(tensors: Tensors, name: str, value: torch.Tensor) -> Tensors:
    """The same tensors with one more for each matrix that is not a floating-point number any more."""
    return tensors | {
        n.removesuffix("weight") + name: value.clone()
        for n, v in tensors.items()
        if v.dtype not in {torch.float32, torch.bfloat16}
    }


FP8, INT8, ONE = torch.float8_e4m3fn, torch.int8, torch.tensor(0.5)


@pytest.mark.parametrize("form", ["safetensors", "pt"])
@pytest.mark.parametrize("dtype", [FP8, torch.float8_e5m2, INT8, torch.uint8, torch.int32])
def test_narrow_numbers_without_scales_are_never_weights(
    config: ModelConfig, wan: Tensors, tmp_path: Path, dtype: torch.dtype, form: str
):
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"20 of \d+ tensors are {name} .*want scales.*hf download Wan-AI"):
        loaded(config, write(tmp_path, narrow(wan, dtype), form))


def test_one_narrow_tensor_is_enough(config: ModelConfig, wan: Tensors, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors are int8 \(head\.modulation\)"):
        loaded(config, write(tmp_path, wan | {"head.modulation": (wan["head.modulation"] * 9).to(INT8)}))


QUANTISED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "block scales": (
        lambda t: beside(narrow(t, FP8), "weight_scale_inv", torch.ones(2, 2)),
        r"20 tensors belong to scales .*weight_scale_inv",
    ),
    "row scales": (lambda t: beside(narrow(t, FP8), "weight_scale", torch.ones(24, 1)), "compressed-tensors"),
    "rows of scale_weight": (lambda t: beside(narrow(t, FP8), "scale_weight", torch.ones(24)), "ComfyUI's scaled fp8"),
    "bitsandbytes 8": (lambda t: beside(narrow(t, INT8), "SCB", torch.ones(24)), r"\(bitsandbytes\)"),
    "bitsandbytes 4": (lambda t: beside(narrow(t, torch.uint8), "weight.absmax", torch.ones(9)), r"\(bitsandbytes\)"),
    "GPTQ": (
        lambda t: {
            n.replace(".weight", ".qweight") if v.dtype == torch.int32 else n: v
            for n, v in beside(narrow(t, torch.int32), "scales", torch.ones(3)).items()
        },
        "GPTQ or AWQ",
    ),
    "quanto": (lambda t: beside(narrow(t, INT8), "weight._scale", torch.ones(24, 1)), "quanto or torchao"),
    "another": (lambda t: beside(narrow(t, INT8), "channel_scales", torch.ones(24)), "an unknown quantiser"),
    "only the marker": (
        lambda t: t | {"scaled_fp8": torch.zeros(2).to(FP8)},
        r"scaled_fp8 says that the matrices want scales, and the file holds none",
    ),
    "one without a scale": (
        lambda t: {
            n: v for n, v in beside(narrow(t, FP8), "scale_weight", ONE).items() if n != "blocks.0.ffn.0.scale_weight"
        },
        r"1 float8 tensors have none \(model\.diffusion_model\.blocks\.0\.ffn\.0\.weight\)",
    ),
    "scales of plain matrices": (
        lambda t: {n: v.float() for n, v in beside(narrow(t, FP8), "scale_weight", ONE).items()},
        "belong to scales that are not applied",
    ),
}


@pytest.mark.parametrize("kind", list(QUANTISED))
def test_quantised_weights_are_refused_by_name(config: ModelConfig, wan: Tensors, tmp_path: Path, kind: str):
    make, message = QUANTISED[kind]
    with pytest.raises(CheckpointError, match=rf"(?s){message}.*give the unquantised weights"):
        loaded(config, write(tmp_path, prefixed("model.diffusion_model.", make(wan)), "pt"))


@pytest.mark.parametrize("form", ["safetensors", "pt"])
def test_float8_with_one_scale_each_is_multiplied_by_it(
    config: ModelConfig, release: Tensors, tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str
):
    small = beside(narrow(release, FP8), "scale_weight", torch.tensor([0.05], dtype=torch.bfloat16))
    small |= beside(narrow(release, FP8), "scale_input", torch.tensor(1.0))
    path = write(tmp_path, prefixed("model.", small) | {"scaled_fp8": torch.zeros(0).to(FP8)}, form)
    model, report = loaded(config, path)
    assert report.scaled == 40
    assert "40 matrices are float8 with one scale each and were multiplied by it" in caplog.text
    name = f"mot.mixtures.video.{QUERIES}"
    assert torch.equal(queries(model), small[name].float() * float(torch.tensor(0.05, dtype=torch.bfloat16)))
    torch.testing.assert_close(queries(model), release[name], atol=0.0, rtol=0.08)  # 3 bits behind the point


@pytest.mark.parametrize("scale", [0.0, float("nan"), -1.0])
def test_what_cannot_be_a_scale_is_refused(config: ModelConfig, wan: Tensors, tmp_path: Path, scale: float):
    with pytest.raises(CheckpointError, match="which is no scale: copy them again"):
        loaded(config, write(tmp_path, beside(narrow(wan, FP8), "scale_weight", torch.tensor(scale))))


@pytest.mark.parametrize(
    "names",
    [
        ["mixtures.action.blocks.0.self_attn.q.lora_A", "mixtures.action.blocks.0.self_attn.q.lora_B"],
        ["base_model.model.blocks.0.self_attn.q.lora_A.default.weight"],
        ["lora_unet_blocks_0_self_attn_q.lora_down.weight", "lora_unet_blocks_0_self_attn_q.alpha"],
        ["diffusion_model.blocks.0.self_attn.q.lora_up.weight", "diffusion_model.blocks.0.norm3.diff_b"],
        ["transformer.blocks.0.attn1.to_q.hada_w1_a"],
    ],
)
def test_adapters_are_told_apart(config: ModelConfig, tmp_path: Path, names: list[str]):
    with pytest.raises(CheckpointError, match=r"are an adapter \(LoRA\) and no model.*another file.*merge_and_unload"):
        loaded(config, write(tmp_path, {name: torch.zeros(2, 2) for name in names}))


def test_an_adapter_beside_its_network_is_to_be_merged(config: ModelConfig, wan: Tensors, tmp_path: Path):
    with pytest.raises(CheckpointError, match="hold an adapter .LoRA. that is not merged: 1 tensors"):
        loaded(config, write(tmp_path, wan | {"blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 2)}))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder"),
        ("decoder.conv_in.weight", "an autoencoder"),
        ("vision_model.embeddings.position_embedding.weight", "an image encoder"),
        ("experts.video.blocks.0.qkv.weight", "start from its run with --init"),
        ("double_blocks.0.img_attn.qkv.weight", "another network than Wan's"),
    ],
)
def test_other_networks_are_named(config: ModelConfig, tmp_path: Path, name: str, what: str):
    with pytest.raises(CheckpointError, match=f"follow no layout known here.*they look like those of .*{what}"):
        loaded(config, write(tmp_path, {name: torch.zeros(2, 2)}))


def test_the_cure_is_that_of_the_fault(config: ModelConfig, release: Tensors, wan: Tensors, tmp_path: Path):
    one = {name: value for name, value in wan.items() if not name.startswith("blocks.1.")}
    with pytest.raises(CheckpointError, match="They have 1 layers of width 24, preset 'wan_micro' has 2 of 24.*wan5b"):
        loaded(config, write(tmp_path, one))
    other = {name: value for name, value in release.items() if not name.startswith("proprio")}
    path = write(tmp_path, other)
    with pytest.raises(CheckpointError, match="These parts depend on the robot: the weights are of another one"):
        loaded(config, path)
    assert loaded(config, path, reinitialise=ROBOT_PARTS)[1].kept == ("proprio_encoder.bias", "proprio_encoder.weight")
    odd = {name.replace("norm3", "norm9"): value for name, value in wan.items()}
    with pytest.raises(CheckpointError, match="they are of another variant of the network"):
        loaded(config, write(tmp_path, odd))


def test_files_that_are_something_else_are_named(config: ModelConfig, wan: Tensors, tmp_path: Path):
    gguf = tmp_path / "wan-Q4_K_M.gguf"
    gguf.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(CheckpointError, match="is a GGUF file.*give the unquantised weights"):
        loaded(config, gguf)
    with pytest.raises(CheckpointError, match=r"no weights at .* It holds wan-Q4_K_M\.gguf: name the file"):
        loaded(config, tmp_path)
    part = tmp_path / "model-00001-of-00003.safetensors"
    save_file(wan, part)
    with pytest.raises(CheckpointError, match="is part 1 of 3: give the folder"):
        loaded(config, part)
    save_file(wan, tmp_path / "wan_bf16.safetensors")
    with pytest.raises(CheckpointError, match=r"both hold '.*': they are not parts of one model. Name the file"):
        loaded(config, tmp_path)
    renamed = write(tmp_path, wan, "pt").rename(tmp_path / "last.ckpt")
    assert loaded(config, renamed)[1].layout == "wan"


def test_archives_of_other_kinds_get_their_own_advice(tmp_path: Path):
    path = tmp_path / "a.pt"
    save_archive({"w": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)}, path)
    with pytest.raises(CheckpointError, match="its matrices are quantised, and mean nothing without their scales"):
        TorchArchive(path)
    save_archive({"w": torch.ones(2)}, path, old=True)
    with pytest.raises(CheckpointError, match=r"is of torch before 1\.6.*python -c"):
        TorchArchive(path)


def test_narrow_types_of_archives_come_back_as_they_are(tmp_path: Path):
    tensors = {"a": torch.arange(12.0).reshape(3, 4).to(FP8)[1:, ::2], "b": torch.tensor([1, -3]).to(INT8)}
    save_archive(tensors, tmp_path / "a.pt")
    archive = TorchArchive(tmp_path / "a.pt")
    assert archive.types() == {"a": "float8_e4m3fn", "b": "int8"}
    for name, value in tensors.items():
        assert torch.equal(archive.read(name).float(), value.float())


def test_frozen_networks_of_a_wan_folder_are_held_to_the_same(tmp_path: Path):
    check_folder(tmp_path)  # weights of another form are the library's own affair
    save_file({"shared.weight": torch.ones(2, 2).to(FP8), "shared.scale_weight": ONE}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="are quantised"):
        check_folder(tmp_path)
    save_file({"shared.weight": torch.ones(2, 2).to(INT8)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 of 1 tensors are int8"):
        check_folder(tmp_path)
    index = {"weight_map": {"a": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    check_folder(tmp_path)


def test_layouts_are_told_behind_prefixes():
    assert detect_layout(["a.b.mot.layers.3.blocks.video.self_attn.q.weight"]) == "lerobot"
    assert detect_layout(["pipe.transformer.condition_embedder.time_proj.weight"]) == "diffusers"
