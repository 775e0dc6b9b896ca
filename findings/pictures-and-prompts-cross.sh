#!/usr/bin/env bash
# Two prompts with their two pictures and num_images_per_prompt=2 should give two drawings of each pair. diffusers repeats the prompts one by one
# (1 1 2 2) but the pictures, and the masks of inpainting, as a whole list (A B A B): of four drawings the second has the first prompt with the
# second picture, and the third the other way round. A ControlNet's picture goes with the prompt, not with the picture to change. Inpainting says
# nothing; image to image says that pictures were repeated, as it does with a single one. The pipelines of SDXL, SD 3 and Flux have the same
# lines, and none that warns. Repeat both lists yourself. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy==2.4.6" "pillow==12.3.0"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()

print("diffusers", diffusers.__version__)
said = []
diffusers.utils.logging.get_logger("diffusers").addHandler(
    type("Heard", (logging.Handler,), {"emit": lambda _, record: said.append(record)})()
)
warnings.showwarning = lambda told, *_, **__: said.append(told)
torch.manual_seed(0)
unet = diffusers.UNet2DConditionModel(
    sample_size=8,
    layers_per_block=1,
    cross_attention_dim=8,
    attention_head_dim=2,
    block_out_channels=(8, 8),
    norm_num_groups=4,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
vae = diffusers.AutoencoderKL(
    block_out_channels=(8,) * 4,
    norm_num_groups=4,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
control = diffusers.ControlNetModel.from_unet(unet)
absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
prompts = torch.tensor([1.0, 2.0])[:, None, None].expand(2, 7, 8)  # a text encoder's answers, told apart by their value
pictures = torch.tensor([-2.0, 2.0])[:, None, None, None].expand(2, 4, 8, 8)  # latents of picture A and picture B
controls = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 3, 64, 64)
got = {}


def seen(name, values):
    got.setdefault(name, "".join(values))


def network(_, given, named):
    seen("prompt", ("12"[int(row[0, 0] > 1.5)] for row in named["encoder_hidden_states"]))
    seen("picture", ("AB"[int(row.mean() > 0)] for row in given[0]))


unet.register_forward_pre_hook(network, with_kwargs=True)
control.register_forward_pre_hook(
    lambda _, given, named: seen("control", ("AB"[int(row.mean() > 0.5)] for row in named["controlnet_cond"])), with_kwargs=True
)


def drawn(name, each):
    """Which prompt, picture and control picture the network works on, for every drawing."""
    pipeline = getattr(diffusers, f"StableDiffusion{name}Pipeline")
    parts = {"controlnet": control} if "ControlNet" in name else {}
    pipeline = pipeline(unet=unet, vae=vae, scheduler=scheduler, requires_safety_checker=False, **parts, **absent)
    pipeline.set_progress_bar_config(disable=True)
    got.clear()
    said.clear()
    job = {"control_image": controls} if "ControlNet" in name else {}
    if name == "Inpaint":
        job = {"mask_image": torch.ones(2, 1, 64, 64), "masked_image_latents": torch.zeros(2, 4, 8, 8)}
    pipeline(
        prompt_embeds=prompts,
        image=pictures,
        strength=0.1,
        num_inference_steps=20,
        num_images_per_prompt=each,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(0),
        **job,
    )
    told = ", ".join(f"{word} {' '.join(value)}" for word, value in got.items())
    print(f"{name}, {each} per prompt: {told}; warnings: {len(said)}")
    return list(got.values()), len(said)


pairs = [drawn(name, each) for name in ("Img2Img", "Inpaint", "ControlNetImg2Img") for each in (1, 2)]
expected = [(["12", "AB"], 0), (["1122", "ABAB"], 1), (["12", "AB"], 0), (["1122", "ABAB"], 0)]
expected += [(["AB", "12", "AB"], 0), (["AABB", "1122", "ABAB"], 1)]
raise SystemExit(0 if pairs == expected else 1)
PYTHON
