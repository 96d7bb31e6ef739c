"""Tiny random folders in the form of Wan's downloads: transformer, autoencoder, text encoder and tokenizer."""

from pathlib import Path

import torch

from wam.config import ModelConfig
from wam.vae import random_vae

__all__ = ["write_text_encoder", "write_transformer", "write_vae", "write_wan_folder"]


def write_wan_folder(folder: Path, config: ModelConfig) -> Path:
    """Writes everything that a Wan preset loads, random and tiny."""
    write_transformer(folder, config)
    write_vae(folder, config)
    write_text_encoder(folder, config)
    return folder


def write_transformer(folder: Path, config: ModelConfig) -> torch.nn.Module:
    """Writes a video expert in several shards."""
    from diffusers import WanTransformer3DModel

    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.latent_channels + config.condition_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_width,
        freq_dim=config.frequency_dim,
        ffn_dim=config.video_ffn_width,
        num_layers=config.num_layers,
        image_dim=config.image_width or None,
        added_kv_proj_dim=config.video_width if config.image_width else None,
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    model.save_pretrained(folder / "transformer", max_shard_size="20KB")
    return model


def write_vae(folder: Path, config: ModelConfig) -> torch.nn.Module:
    """Writes an autoencoder of the preset's strides, a few channels wide."""
    torch.manual_seed(1)
    vae = random_vae(config, base_dim=4)
    vae.save_pretrained(folder / "vae")
    return vae


def write_text_encoder(folder: Path, config: ModelConfig) -> torch.nn.Module:
    """Writes a UMT5 and a tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = "<pad> </s> <unk> a video recorded from robot point of view executing the following instruction red blue"
    vocabulary = {word: index for index, word in enumerate(words.split())}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder / "tokenizer")
    torch.manual_seed(2)
    encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=32, d_model=config.text_width, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    )
    encoder.save_pretrained(folder / "text_encoder")
    return encoder
