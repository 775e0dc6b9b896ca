#!/usr/bin/env bash
# An inpainting mask says which pixels to draw anew. diffusers shrinks it to latents by taking one pixel of every 8x8 block, the upper left, and
# throws the other 63 away: whether a stroke of 1 to 7 pixels counts depends on where it lies. One that misses those pixels gives exactly the
# picture of an empty mask, without a word; at its other places it counts as 8 pixels. Max-pool a mask by 8 first. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy==2.4.6" "pillow==12.3.0"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import numpy
import torch
from PIL import Image, ImageDraw

print("diffusers", diffusers.__version__)
torch.manual_seed(0)
unet = diffusers.UNet2DConditionModel(
    sample_size=16,
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
pipe = diffusers.StableDiffusionInpaintPipeline(
    vae, None, None, unet, diffusers.DDIMScheduler(steps_offset=1), None, None, requires_safety_checker=False
)
pipe.set_progress_bar_config(disable=True)
picture = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=numpy.uint8))
words = torch.randn(1, 3, 8)


def drawn(left, width):
    """Latents of the picture inpainted under a vertical stroke."""
    mask = Image.new("L", picture.size)
    if width:
        ImageDraw.Draw(mask).rectangle((left, 0, left + width - 1, 127), fill=255)
    given = {"prompt_embeds": words, "image": picture, "mask_image": mask, "height": 128, "width": 128, "strength": 1.0}
    noise = torch.Generator().manual_seed(0)
    return pipe(**given, num_inference_steps=2, guidance_scale=1.0, generator=noise, output_type="latent").images


empty, counts = drawn(0, 0), {}
for width in (1, 4, 6, 7, 8):
    # Of 16 columns of latents.
    counts[width] = [int((drawn(64 + offset, width) != empty).any(1).any(1).sum()) for offset in range(8)]
    print(f"a stroke of {width} pixels, from 0 to 7 pixels behind a multiple of 8: columns of latents drawn anew {counts[width]}")
raise SystemExit(0 if counts == {width: [1] + [int(8 - offset < width) for offset in range(1, 8)] for width in counts} else 1)
PYTHON
