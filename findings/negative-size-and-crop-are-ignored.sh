#!/usr/bin/env bash
# SDXL is told the size and the crop of the picture to draw, and diffusers lets the negative side be told others, against small, blurred, or cut-off
# pictures. Each of the three arguments may be given alone, says its signature. Text to image takes none of them unless both sizes are given: with
# negative_original_size=(256, 256) it draws the same latents to the last bit. Image to image and inpainting take each size, but tell the negative
# side the crop of the positive one, whatever negative_crops_coords_top_left says; only the refiner gets that. Nothing is said. In text to image
# give all three; in the other two a negative crop can't be had. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

print("diffusers", diffusers.__version__)
said, told = [], []
diffusers.utils.logging.get_logger("diffusers").addHandler(type("Heard", (logging.Handler,), {"emit": lambda _, record: said.append(record)})())
warnings.showwarning = lambda *told, **_: said.append(told)
torch.manual_seed(0)
vae = AutoencoderKL(norm_num_groups=8, block_out_channels=(8,), force_upcast=False).eval()
absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
embeds = {name: torch.randn(1, 7, 8) for name in ("prompt_embeds", "negative_prompt_embeds")}
embeds |= {name: torch.randn(1, 8) for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")}
picture, mask = torch.rand(1, 3, 32, 32), torch.ones(1, 1, 32, 32)


def pipeline(kind, refiner=False):
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(32,),
        layers_per_block=1,
        cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 + (5 if refiner else 6) * 8,
    ).eval()
    unet.register_forward_pre_hook(lambda _, args, kwargs: told.append(kwargs["added_cond_kwargs"]["time_ids"].int().tolist()), with_kwargs=True)
    more = {"requires_aesthetics_score": True} if refiner else {}
    pipe = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")(unet=unet, vae=vae, scheduler=EulerDiscreteScheduler(), **absent, **more)
    pipe.set_progress_bar_config(disable=True)
    inputs = {"": {"height": 32, "width": 32}, "Img2Img": {"image": picture}, "Inpaint": {"image": picture, "mask_image": mask, "height": 32, "width": 32}}
    inputs = embeds | inputs[kind] | {"num_inference_steps": 4, "output_type": "latent"}
    return lambda **sizes: pipe(**inputs, generator=torch.Generator().manual_seed(1), **sizes).images


original, crop, target = {"negative_original_size": (256, 256)}, {"negative_crops_coords_top_left": (0, 512)}, {"negative_target_size": (16, 16)}
asked = {"size": original, "crop": crop, "target": target, "size and crop": original | crop, "size and target": original | target}
asked["all"] = original | crop | target
expected = {
    "text to image": "size: same; crop: same; target: same; size and crop: same; size and target: other; all: other, with the crop",
    "image to image": "size: other; crop: same; target: other; size and crop: other; size and target: other; all: other",
    "inpainting": "size: other; crop: same; target: other; size and crop: other; size and target: other; all: other",
    "refiner": "size: other; crop: other, with the crop; target: same; size and crop: other, with the crop; size and target: other; all: other, with the crop",
}
same = True
for title, kind, refiner in (("text to image", "", 0), ("image to image", "Img2Img", 0), ("inpainting", "Inpaint", 0), ("refiner", "Img2Img", 1)):
    draw, found = pipeline(kind, bool(refiner)), []
    plain = draw()
    assert torch.equal(draw(), plain)
    for name, sizes in asked.items():
        latents = draw(**sizes)
        negative, positive = told[-1]
        found.append(f"{name}: {'same' if torch.equal(latents, plain) else 'other'}{', with the crop' if negative[2:4] == [0, 512] else ''}")
    print(f"{title}: {'; '.join(found)}. Asked for all, the negative side is told {negative}, the positive {positive}")
    same &= "; ".join(found) == expected[title]
draw = pipeline("Img2Img")
draw(crops_coords_top_left=(0, 512), **original, **target)
print("image to image, a crop for the positive side alone: negative", told[-1][0], "positive", told[-1][1])
same &= told[-1][0][2:4] == [0, 512]
print("warnings:", len(said))
raise SystemExit(0 if same and not said else 1)
PYTHON
