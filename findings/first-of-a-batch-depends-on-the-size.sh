#!/usr/bin/env bash
# A batch drawn from one generator begins with the picture that the generator draws alone: at 512 px to the last bit, and the second is the one
# that it draws next. At 600 px neither is so. On a processor torch draws normal numbers 16 at a time; where their count is no multiple of 16, as
# where both sides of the latents are odd (75x75), it draws the last 16 anew. So the noise of a single picture ends with 16 values that the
# batch does not have, the generator stands elsewhere, and the next picture is another one. One generator for each picture avoids it. Exits
# non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel

torch.manual_seed(0)
blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8}
unet = UNet2DConditionModel(
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=16,
    attention_head_dim=4,
    **blocks,
).eval()
vae = AutoencoderKL(
    block_out_channels=(8, 8, 8, 8),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=4,
    norm_num_groups=4,
)
pipeline = StableDiffusionPipeline(
    vae=vae,
    text_encoder=None,
    tokenizer=None,
    unet=unet,
    scheduler=EulerDiscreteScheduler(),
    safety_checker=None,
    feature_extractor=None,
    requires_safety_checker=False,
)
pipeline.set_progress_bar_config(disable=True)
prompt = torch.randn(1, 7, 16)


def drawn(size, count, generator):
    """The latents of `count` pictures of size x size pixels."""
    given = {"prompt_embeds": prompt, "guidance_scale": 1.0, "num_inference_steps": 2, "output_type": "latent"}
    return pipeline(height=size, width=size, num_images_per_prompt=count, generator=generator, **given).images


print("torch", torch.__version__, "diffusers", diffusers.__version__)
found = {}
for size in (512, 600):
    batch = drawn(size, 2, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    alone = torch.cat([drawn(size, 1, generator) for _ in range(2)])
    # Beyond what other kernels for a batch of two make of the same noise.
    changed = [(one - other).abs().max().item() > 1e-3 for one, other in zip(batch, alone)]
    noises = [torch.randn(count, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(1))[0] for count in (1, 2)]
    values = (noises[0] != noises[1]).sum().item()
    found[size] = (changed, values)
    print(f"{size} px: first picture {'differs' if changed[0] else 'same'}, second {'differs' if changed[1] else 'same'};"
          f" {values} values of the first one's noise differ")
raise SystemExit(0 if found == {512: ([False, False], 0), 600: ([True, True], 16)} else 1)
PYTHON
