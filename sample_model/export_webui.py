"""Write the sample model as the WebUI wants it: one LDM checkpoint, its yaml beside it, its text encoder's folder.

    python -m sample_model.export_webui --webui-dir path/to/stable-diffusion-webui

The checkpoint then stands in the WebUI's list like any other. The yaml names the text encoder's folder by its path on
this machine, so export again after moving the WebUI.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from lib_accel.sample import check_weights, model_folder

NAME = "sd-webui-accel-sample"

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_key(key: str, levels: int, layers: int) -> str:
    """LDM's name for a weight of a diffusers U-Net with `levels` levels and `layers` residual blocks on each way down."""
    name, kind = key.rsplit(".", 1)
    if name in _UNET_ENDS:
        return f"{_UNET_ENDS[name]}.{kind}"
    parts = name.split(".")
    if parts[0] == "mid_block":
        place = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        rest = parts[3:]
        prefix = f"middle_block.{place}"
    else:
        level, part, index, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
        down = parts[0] == "down_blocks"
        block = (level * (layers + 1) + 1 if down else level * (layers + 1)) + index
        if part == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op.{kind}"
        if part == "upsamplers":
            # The last block of a level: residual block, attention where the level has it, then the upsampler.
            place = 1 if level == 0 else 2
            return f"output_blocks.{level * (layers + 1) + layers}.{place}.conv.{kind}"
        prefix = f"{'input_blocks' if down else 'output_blocks'}.{block}.{1 if part == 'attentions' else 0}"
    if rest[0] in _UNET_RESNET and len(rest) == 1:
        rest = [_UNET_RESNET[rest[0]]]
    return ".".join([prefix, *rest, kind])


def autoencoder_key(key: str, levels: int) -> str:
    """LDM's name for a weight of a diffusers AutoencoderKL with `levels` levels."""
    for ours, theirs in (("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut")):
        key = key.replace(ours, theirs)
    parts = key.split(".")
    if "mid_block" in key:
        side, rest = parts[0], ".".join(parts[4:])
        if parts[2] == "attentions":
            name, kind = rest.rsplit(".", 1)
            return f"{side}.mid.attn_1.{_VAE_ATTENTION[name]}.{kind}"
        return f"{side}.mid.block_{int(parts[3]) + 1}.{rest}"
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        down = parts[1] == "down_blocks"
        # LDM counts the decoder's levels from the picture, diffusers from the latents.
        level = int(parts[2]) if down else levels - 1 - int(parts[2])
        rest = {"resnets": f"block.{parts[4]}", "downsamplers": "downsample", "upsamplers": "upsample"}[parts[3]]
        return ".".join([parts[0], "down" if down else "up", str(level), rest, *parts[5:]])
    return key


def ldm_state(pipeline) -> dict:
    """All weights of a diffusers pipeline under their LDM names, fp16."""
    unet, vae = pipeline.unet, pipeline.vae
    levels, layers = len(unet.config.block_out_channels), unet.config.layers_per_block
    state = {f"model.diffusion_model.{unet_key(key, levels, layers)}": value for key, value in unet.state_dict().items()}
    for key, value in vae.state_dict().items():
        if "attentions" in key and key.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]  # a linear layer in diffusers, a 1x1 convolution in LDM
        state["first_stage_model." + autoencoder_key(key, len(vae.config.block_out_channels))] = value
    for key, value in pipeline.text_encoder.state_dict().items():
        key = key if key.startswith("text_model.") else "text_model." + key
        state["cond_stage_model.transformer." + key] = value
    return {
        key: value.detach().to("cpu", torch.float16 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in state.items()
    }


def ldm_yaml(pipeline, text_folder: Path) -> str:
    """The checkpoint's configuration; `text_folder` holds the tokenizer and the text encoder's config.json."""
    unet, vae, text, noise = (pipeline.unet.config, pipeline.vae.config, pipeline.text_encoder.config, pipeline.scheduler.config)
    base, vae_base = unet.block_out_channels[0], vae.block_out_channels[0]
    levels = [2**level for level, kind in enumerate(unet.down_block_types) if "CrossAttn" in kind]
    unet_settings = {
        "image_size": unet.sample_size,
        "in_channels": unet.in_channels,
        "out_channels": unet.out_channels,
        "model_channels": base,
        "attention_resolutions": levels[::-1],
        "num_res_blocks": unet.layers_per_block,
        "channel_mult": [count // base for count in unet.block_out_channels],
        "num_heads": unet.attention_head_dim,
        "use_spatial_transformer": True,
        "transformer_depth": 1,
        "context_dim": unet.cross_attention_dim,
        "use_checkpoint": False,
        "legacy": False,
    }
    vae_settings = {
        "double_z": True,
        "z_channels": vae.latent_channels,
        "resolution": vae.sample_size,
        "in_channels": vae.in_channels,
        "out_ch": vae.out_channels,
        "ch": vae_base,
        "ch_mult": [count // vae_base for count in vae.block_out_channels],
        "num_res_blocks": vae.layers_per_block,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    nothing = {"target": "torch.nn.Identity"}
    config = {
        "model": {
            "base_learning_rate": 1e-4,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": {
                "linear_start": noise.beta_start,
                "linear_end": noise.beta_end,
                "num_timesteps_cond": 1,
                "log_every_t": 200,
                "timesteps": noise.num_train_timesteps,
                "first_stage_key": "jpg",
                "cond_stage_key": "txt",
                "image_size": unet.sample_size,
                "channels": vae.latent_channels,
                "cond_stage_trainable": False,
                "conditioning_key": "crossattn",
                "monitor": "val/loss_simple_ema",
                "scale_factor": vae.scaling_factor,
                "use_ema": False,
                "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet_settings},
                "first_stage_config": {
                    "target": "ldm.models.autoencoder.AutoencoderKL",
                    "params": {
                        "embed_dim": vae.latent_channels,
                        "monitor": "val/rec_loss",
                        "ddconfig": vae_settings,
                        "lossconfig": nothing,
                    },
                },
                "cond_stage_config": {
                    "target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder",
                    "params": {"version": str(text_folder), "max_length": text.max_position_embeddings},
                },
            },
        }
    }
    # JSON is YAML, and it quotes paths with blanks, colons and backslashes the same way on every system.
    return "# Written by sd-webui-accel.\n" + json.dumps(config, indent=2, ensure_ascii=False) + "\n"


def export(webui_folder: Path, folder: Path | None = None) -> Path:
    """Export the model in `folder` (default: the shipped one) into a WebUI; return the checkpoint's path.

    Writes NAME.safetensors and NAME.yaml into models/Stable-diffusion and the text encoder's files into models/NAME.
    Raises WeightsError for a missing or damaged weight file, ValueError when `webui_folder` is no folder.
    """
    from safetensors.torch import save_file

    from lib_accel.sample import load_pipeline

    folder = Path(folder or model_folder())
    check_weights(folder)
    webui_folder = Path(webui_folder).resolve()
    if not webui_folder.is_dir():
        raise ValueError(f"--webui-dir is {str(webui_folder)!r}; it must be the folder of an installed WebUI")
    pipeline = load_pipeline(dtype=torch.float16, folder=folder)
    text_folder = webui_folder / "models" / NAME
    text_folder.mkdir(parents=True, exist_ok=True)
    for part in ("tokenizer", "text_encoder"):
        for file in sorted((folder / part).iterdir()):
            shutil.copyfile(file, text_folder / file.name)
    checkpoint = webui_folder / "models" / "Stable-diffusion" / f"{NAME}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    save_file(ldm_state(pipeline), str(checkpoint), metadata={"format": "pt"})
    checkpoint.with_suffix(".yaml").write_text(ldm_yaml(pipeline, text_folder), encoding="utf-8")
    return checkpoint


def main(argv: list | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--webui-dir", type=Path, required=True, help="folder of the WebUI")
    parser.add_argument("--model", type=Path, help="diffusers folder (default: the shipped model)")
    options = parser.parse_args(argv)
    print("wrote", export(options.webui_dir, options.model))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
