"""A diffusers folder as one checkpoint file in the layout of Stable Diffusion's original code."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Weights = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding.cond_proj": "time_embed.cond_proj",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
MID = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}
VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_checkpoint(folder: Path, file: Path, *, open_clip: bool = False) -> Path:
    """Write the model in ``folder`` as one file; ``open_clip`` as Stable Diffusion 2.x has it."""
    text = text_weights(folder / "text_encoder")
    if (folder / "text_encoder_2").is_dir():
        texts = xl_texts(text, text_weights(folder / "text_encoder_2"))
    elif open_clip:
        texts = {f"cond_stage_model.model.{k}": t for k, t in open_clip_layout(text).items()}
    else:
        texts = {f"cond_stage_model.transformer.text_model.{k}": t for k, t in text.items()}
    unet = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    save_file(
        {
            **{f"model.diffusion_model.{unet_name(k, unet)}": t for k, t in unet.items()},
            **{f"first_stage_model.{vae_name(k, vae)}": vae_tensor(k, t) for k, t in vae.items()},
            **texts,
        },
        file,
    )
    return file


def text_weights(folder: Path) -> Weights:
    text = load_file(folder / "model.safetensors")
    return {key.removeprefix("text_model."): tensor for key, tensor in text.items()}


def xl_texts(first: Weights, second: Weights) -> Weights:
    """Both text encoders of Stable Diffusion XL."""
    second = {**second, "logit_scale": torch.tensor(4.6)}
    second["text_projection"] = second.pop("text_projection.weight").T.contiguous()
    inner = "conditioner.embedders.0.transformer.text_model."
    return {f"{inner}{k}": t for k, t in first.items()} | {
        f"conditioner.embedders.1.model.{k}": t for k, t in open_clip_layout(second).items()
    }


def unet_name(key: str, unet: Weights) -> str:
    layers = 1 + max(int(n) for k in unet for n in re.findall(r"^down_blocks\.0\.resnets\.(\d)", k))
    for end, name in UNET_ENDS.items():
        if key.startswith(f"{end}."):
            return key.replace(end, name, 1)
    if match := re.fullmatch(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)", key):
        return f"middle_block.{MID[match[1]]}.{inner(match[2])}"
    side, block, kind, layer, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key
    ).groups()
    first = int(block) * (layers + 1)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{1 + first + layers}.0.{rest.replace('conv', 'op')}"
        place = f"input_blocks.{1 + first + int(layer)}"
    else:
        if kind == "upsamplers":
            attends = any(k.startswith(f"up_blocks.{block}.attentions") for k in unet)
            return f"output_blocks.{first + layers}.{2 if attends else 1}.{rest}"
        place = f"output_blocks.{first + int(layer)}"
    return f"{place}.{0 if kind == 'resnets' else 1}.{inner(rest)}"


def inner(rest: str) -> str:
    first, _, last = rest.partition(".")
    return f"{RESNET.get(first, first)}.{last}"


def vae_name(key: str, vae: Weights) -> str:
    blocks = 1 + max(int(n) for k in vae for n in re.findall(r"down_blocks\.(\d)", k))
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"down_blocks\.(\d)", r"down.\1", key)
    key = re.sub(r"up_blocks\.(\d)", lambda match: f"up.{blocks - 1 - int(match[1])}", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if ".mid_block.attentions.0." in key:
        place, _, name = key.partition(".mid_block.attentions.0.")
        layer, _, kind = name.rpartition(".")
        return f"{place}.mid.attn_1.{VAE_ATTENTION[layer]}.{kind}"
    return (
        key.replace(".resnets.", ".block.")
        .replace("downsamplers.0.conv", "downsample.conv")
        .replace("upsamplers.0.conv", "upsample.conv")
    )


def vae_tensor(key: str, tensor: Tensor) -> Tensor:
    """The original's attention is made of convolutions."""
    convolved = ".attentions.0.to_" in key and key.endswith("weight")
    return tensor[:, :, None, None] if convolved else tensor


def open_clip_layout(text: Weights) -> Weights:
    made, packed = {}, {}
    for key, tensor in text.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", key):
            layer, which, kind = match.groups()
            packed.setdefault(f"transformer.resblocks.{layer}.attn.in_proj_{kind}", {})[which] = (
                tensor
            )
            continue
        for ours, theirs in OPEN_CLIP.items():
            key = key.replace(ours, theirs)
        made[key] = tensor
    return made | {k: torch.cat([three[c] for c in "qkv"]) for k, three in packed.items()}
