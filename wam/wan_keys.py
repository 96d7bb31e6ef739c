"""Names of Wan's weights: four published layouts, one canonical one, and where each tensor goes in our model.

| layout | who writes it | a self-attention query of layer 3 |
|---|---|---|
| ``diffusers`` | Wan2.2-TI2V-5B and Wan2.1-I2V-14B folders for diffusers | ``blocks.3.attn1.to_q.weight`` |
| ``wan`` | Wan's own folders | ``blocks.3.self_attn.q.weight`` |
| ``fastwam`` | Fast-WAM's releases (both experts) | ``mot.mixtures.video.blocks.3.self_attn.q.weight`` |
| ``lerobot`` | LeRobot's ``policies/fastwam`` | ``model.mot.layers.3.blocks.video.self_attn.q.weight`` |

Whatever a file has in front of them (``module.``, ``model.diffusion_model.``, ``fastwam.``, nested dictionaries) is
taken off: it is the text before the part that only this layout has, and must be the same for all of the network.

All are first renamed to canonical names, ``<expert>.<name in Wan's own layout>`` plus ``proprio_encoder.*``; a
``Placement`` then says which parameter of ours a canonical tensor fills. Queries, keys and values share one parameter
here, so a placement may be a part of it.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from wam.config import ModelConfig
from wam.errors import CheckpointError
from wam.weight_kinds import foreign

__all__ = [
    "LAYOUTS",
    "Layout",
    "Placement",
    "action_names",
    "canonical_names",
    "detect_layout",
    "find_layout",
    "placements",
    "wanted",
]

LAYOUTS = ("diffusers", "wan", "fastwam", "lerobot")

# diffusers -> Wan, most special first; the block's norm2 and norm3 really do change places.
_DIFFUSERS = (
    (r"condition_embedder\.text_embedder\.linear_1\.", "text_embedding.0."),
    (r"condition_embedder\.text_embedder\.linear_2\.", "text_embedding.2."),
    (r"condition_embedder\.time_embedder\.linear_1\.", "time_embedding.0."),
    (r"condition_embedder\.time_embedder\.linear_2\.", "time_embedding.2."),
    (r"condition_embedder\.time_proj\.", "time_projection.1."),
    (r"condition_embedder\.image_embedder\.norm1\.", "img_emb.proj.0."),
    (r"condition_embedder\.image_embedder\.ff\.net\.0\.proj\.", "img_emb.proj.1."),
    (r"condition_embedder\.image_embedder\.ff\.net\.2\.", "img_emb.proj.3."),
    (r"condition_embedder\.image_embedder\.norm2\.", "img_emb.proj.4."),
    (r"(blocks\.\d+\.)norm2\.", r"\1norm3."),
    (r"(blocks\.\d+\.)scale_shift_table", r"\1modulation"),
    (r"(blocks\.\d+\.)ffn\.net\.0\.proj\.", r"\1ffn.0."),
    (r"(blocks\.\d+\.)ffn\.net\.2\.", r"\1ffn.2."),
    (r"(blocks\.\d+\.)attn1\.", r"\1self_attn."),
    (r"(blocks\.\d+\.)attn2\.", r"\1cross_attn."),
    (r"(blocks\.\d+\.\w+\.)to_([qkv])\.", r"\1\2."),
    (r"(blocks\.\d+\.\w+\.)to_out\.0\.", r"\1o."),
    (r"(blocks\.\d+\.\w+\.)add_([kv])_proj\.", r"\1\2_img."),
    (r"(blocks\.\d+\.\w+\.)norm_added_k\.", r"\1norm_k_img."),
    (r"proj_out\.", "head.head."),
    (r"scale_shift_table$", "head.modulation"),
)
_SIGNS = {  # a name that only this layout has; tried in this order
    "lerobot": r"(mot\.)?layers\.\d+\.blocks\.(video|action)\.",
    "fastwam": r"(mot\.)?mixtures\.(video|action)\.",
    "diffusers": r"condition_embedder\.",
    "wan": r"blocks\.\d+\.self_attn\.",
}
_LEAF = r".*\.(weight|bias|modulation)$"  # of a weight, not of an optimiser's memory of it
# Frozen parts that are loaded from elsewhere, diffusers' unused norm, and what training keeps beside a network.
_IGNORED = (
    r"(^|\.)(vae|text_encoder|image_encoder|clip)\.",
    r"\.norm_added_q\.",
    r"(^|\.)(optimi[sz]er\w*|\w*scheduler\w*|\w*scaler|rng_state\w*)(\.|$)",
)
_WRAPPER = r"(^|\.)(module|_\w+)(?=\.)"  # DDP, torch.compile, FSDP: inside of names as well as in front


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one canonical tensor goes."""

    target: str  # parameter of ``WorldActionModel``
    part: int = 0  # which part of its first dimension
    parts: int = 1  # how many equal parts share it
    patches: bool = False  # a (D, C, 1, p, p) convolution over patches becomes a (D, p·p·C) projection of tokens


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the names of a file are."""

    name: str  # one of LAYOUTS
    stripped: tuple[str, ...]  # what was taken off: the prefix, and wrappers inside of names
    names: Mapping[str, str]  # canonical name -> name in the file
    aside: tuple[str, ...]  # names of parts that are not wanted here


def find_layout(shapes: Mapping[str, tuple[int, ...]], origin: str) -> Layout:
    """Tells which layout the tensors of a file follow, behind whatever prefix, and what else is in it.

    Args:
        shapes: Of every tensor that is a weight.
        origin: The file, for the error.

    Raises:
        CheckpointError: None of those known, or several networks in one file.
    """
    plain = {name: plain_name(name) for name in shapes if wanted(name)}
    name, prefixes = _detected(plain.values(), origin)
    if len(prefixes) > 1:
        raise CheckpointError(_several(prefixes, origin))
    prefix, found, aside = prefixes[0], {}, [other for other in shapes if other not in plain]
    for original, cleaned in plain.items():
        canonical = _canonical(_behind(cleaned, prefix), name)
        if "." not in canonical.removeprefix("video.") and math.prod(shapes[original]) == 1:
            aside.append(original)  # one number beside the network: a count of steps
        elif canonical in found:
            raise CheckpointError(_several((found[canonical], original), origin))
        else:
            found[canonical] = original
    wrappers = {match.group(2) for original in plain for match in re.finditer(_WRAPPER, original)}
    stripped = tuple(filter(None, (prefix, *(f"{wrapper}." for wrapper in sorted(wrappers)))))
    return Layout(name=name, stripped=stripped, names=found, aside=tuple(aside))


def wanted(name: str) -> bool:
    """Whether a tensor may belong to the network, and to no part that is loaded from elsewhere or is training's own."""
    return not any(re.search(pattern, name) for pattern in _IGNORED)


def plain_name(name: str) -> str:
    """A name without wrappers, but with its prefix."""
    return re.sub(_WRAPPER, "", name).lstrip(".")


def detect_layout(names: Iterable[str]) -> str:
    """Tells which layout the tensor names of a file follow.

    Raises:
        CheckpointError: None of those known.
    """
    return _detected((plain_name(name) for name in names if wanted(name)), "")[0]


def _detected(names: Iterable[str], origin: str) -> tuple[str, tuple[str, ...]]:
    """Layout and what stands in front of its names; several where there are several networks."""
    found = sorted(names)
    for layout, sign in _SIGNS.items():
        pattern = re.compile(rf"^((?:[^.]+\.)*?){sign}{_LEAF if layout != 'diffusers' else ''}")
        prefixes = dict.fromkeys(match.group(1) for name in found if (match := pattern.match(name)))
        if prefixes:
            return layout, tuple(prefixes)
    what = foreign(found)
    raise CheckpointError(
        f"weights {origin} with names like {', '.join(found[:3]) or 'none at all'} follow no layout known here "
        f"({', '.join(LAYOUTS)}){f'; they look like those of {what}' if what else ''}. Give a folder of "
        "Wan2.2-TI2V-5B or Wan2.1-I2V-14B for diffusers, a Fast-WAM release or a LeRobot fastwam checkpoint."
    )


def _several(places: tuple[str, ...], origin: str) -> str:
    shown, last = ", ".join(f"'{place}'" for place in places), places[-1].split(".")[0]
    said = f"weights {origin} hold {len(places)} networks, under {shown}: which is meant cannot be told"
    if origin.endswith(".safetensors"):
        module, load, save, end = "safetensors.torch", f"t.load_file('{origin}')", "t.save_file", "safetensors"
    else:
        module, load, save, end = "torch", f"t.load('{origin}', weights_only=True)", "t.save", "pt"
    return (
        f"{said}. Save one of them alone, such as '{last}': python -c \"import {module} as t; "
        f"{save}({{k: v for k, v in {load}.items() if k.split('.')[0] == '{last}'}}, '{last}.{end}')\""
    )


def _behind(name: str, prefix: str) -> str:
    """The name without the prefix; Fast-WAM's proprio encoder stands beside the network, maybe further out."""
    if name.startswith(prefix):
        return name[len(prefix) :]
    outer, mark, rest = name.rpartition("proprio_encoder.")
    return mark + rest if mark and prefix.startswith(outer) else name


def canonical_names(names: Iterable[str], layout: str) -> dict[str, str]:
    """Maps the names of one layout to canonical names; tensors that are never used here are left out."""
    return {name: _canonical(name, layout) for name in names if wanted(name)}


def placements(config: ModelConfig, experts: Iterable[str] = ("video", "action")) -> dict[str, Placement]:
    """Returns canonical name → place, for every tensor of the named experts that our model needs.

    Args:
        config: Geometry of our model.
        experts: "video", "action" or both; with "action" comes the proprio encoder.
    """
    found: dict[str, Placement] = {}
    for expert in experts:
        for name, place in _expert(config, expert).items():
            found[f"{expert}.{name}"] = place
    if "action" in experts:
        for kind in ("weight", "bias"):
            found[f"proprio_encoder.{kind}"] = Placement(target=f"proprio_in.{kind}")
    return found


def action_names(config: ModelConfig) -> tuple[str, ...]:
    """Canonical names, without the expert, that an action expert shares with the video expert in kind.

    Its embedding and head have no counterpart: actions are not latents.
    """
    own = _expert(config, "action")
    return tuple(name for name in own if not name.startswith(("action_encoder.", "head.")))


def _canonical(name: str, layout: str) -> str:
    if layout == "diffusers":
        for pattern, replacement in _DIFFUSERS:
            name = re.sub(rf"^{pattern}" if not pattern.startswith("(") else pattern, replacement, name)
        return f"video.{name}"
    if layout == "wan":
        return f"video.{name.removeprefix('model.')}"
    name = name.removeprefix("model.").removeprefix("mot.")
    name = re.sub(r"^layers\.(\d+)\.blocks\.(\w+)\.", r"\2.blocks.\1.", name)
    return name.removeprefix("mixtures.")


def _expert(config: ModelConfig, expert: str) -> dict[str, Placement]:
    home = f"experts.{expert}"
    linear = {"text_embedding.0": "text.0", "text_embedding.2": "text.2"}
    linear |= {
        "time_embedding.0": "time.mlp.0",
        "time_embedding.2": "time.mlp.2",
        "time_projection.1": "time.modulation",
    }
    names = _linear(linear, home)
    if expert == "video":
        names["patch_embedding.weight"] = Placement(target=f"{home}.embed.weight", patches=True)
        names["patch_embedding.bias"] = Placement(target=f"{home}.embed.bias")
        names |= _linear({"head.head": "head.linear"}, home)
        names["head.modulation"] = Placement(target=f"{home}.head.modulation")
        if config.image_width:
            parts = {f"img_emb.proj.{i}": f"image.{i}" for i in (0, 1, 3, 4)}
            names |= _linear(parts, home)
    else:
        names |= _linear({"action_encoder": "embed", "head": "head.linear"}, home)
    if not (expert == "action" and config.action_register):
        for layer in range(config.num_layers):
            names |= _block(
                f"blocks.{layer}", f"{home}.blocks.{layer}", image=expert == "video" and config.image_width > 0
            )
    return names


def _block(name: str, home: str, *, image: bool) -> dict[str, Placement]:
    plain = {"self_attn.o": "out", "cross_attn.q": "cross_q", "cross_attn.o": "cross_out", "norm3": "norm_cross"}
    found = _linear(
        {f"{name}.{theirs}": ours for theirs, ours in (plain | {"ffn.0": "ffn.0", "ffn.2": "ffn.2"}).items()}, home
    )
    norms = {"self_attn.norm_q": "norm_q", "self_attn.norm_k": "norm_k"}
    norms |= {"cross_attn.norm_q": "norm_cross_q", "cross_attn.norm_k": "norm_cross_k"}
    fused = {f"self_attn.{part}": ("qkv", i, 3) for i, part in enumerate("qkv")}
    fused |= {f"cross_attn.{part}": ("cross_kv", i, 2) for i, part in enumerate("kv")}
    if image:
        fused |= {f"cross_attn.{part}_img": ("image_kv", i, 2) for i, part in enumerate("kv")}
        norms["cross_attn.norm_k_img"] = "norm_image_k"
    for theirs, ours in norms.items():
        found[f"{name}.{theirs}.weight"] = Placement(target=f"{home}.{ours}.weight")
    for theirs, (ours, part, parts) in fused.items():
        for kind in ("weight", "bias"):
            found[f"{name}.{theirs}.{kind}"] = Placement(target=f"{home}.{ours}.{kind}", part=part, parts=parts)
    found[f"{name}.modulation"] = Placement(target=f"{home}.modulation")
    return found


def _linear(names: dict[str, str], home: str) -> dict[str, Placement]:
    return {
        f"{theirs}.{kind}": Placement(target=f"{home}.{ours}.{kind}")
        for theirs, ours in names.items()
        for kind in ("weight", "bias")
    }
