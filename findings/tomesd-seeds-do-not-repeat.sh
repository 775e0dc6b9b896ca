#!/usr/bin/env bash
# A pipeline whose U-Net tomesd merges tokens in draws another picture every time from the same generator: each block copies torch's global
# random state when it first runs, and goes on from there in every later picture, whatever generator the pipeline is given. Patching anew after
# torch.manual_seed repeats a picture. With an odd number of rows nothing is drawn at random, so an unguided picture drawn alone is not the one
# of a batch of two. use_rand=False ends both. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "tomesd==0.1.3" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata

import diffusers
import tomesd
import torch

print("tomesd", importlib.metadata.version("tomesd"), "diffusers", diffusers.__version__)
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
pipe = diffusers.StableDiffusionPipeline(vae, None, None, unet, diffusers.DDIMScheduler(steps_offset=1), None, None, requires_safety_checker=False)
pipe.set_progress_bar_config(disable=True)
words, negative = torch.randn(2, 1, 3, 8)


def drawn(pictures=1, guidance=7.0):
    """Latents of the first of some pictures, always from the same generators."""
    noise = [torch.Generator().manual_seed(seed) for seed in range(pictures)]
    texts = {"prompt_embeds": words.repeat(pictures, 1, 1), "negative_prompt_embeds": negative.repeat(pictures, 1, 1)}
    size = {"height": 128, "width": 128, "num_inference_steps": 5, "guidance_scale": guidance}
    return pipe(**texts, **size, generator=noise, output_type="latent").images[0]


def patched_anew(pictures, guidance=7.0, **options):
    torch.manual_seed(5)
    tomesd.apply_patch(pipe, ratio=0.5, **options)
    return drawn(pictures, guidance)


def far(one, other):
    return float((one - other).abs().max() / one.std())


found = {"plain, twice": far(drawn(), drawn())}
tomesd.apply_patch(pipe, ratio=0.5)
found["merged, twice"] = far(drawn(), drawn())
found["merged, patched anew after the same global seed"] = far(patched_anew(1), patched_anew(1))
found["merged, without guidance, alone and in a batch of two"] = far(patched_anew(1, 1.0), patched_anew(2, 1.0))
found["merged, without guidance, in batches of two and of four"] = far(patched_anew(2, 1.0), patched_anew(4, 1.0))
tomesd.apply_patch(pipe, ratio=0.5, use_rand=False)
found["use_rand=False, twice"] = far(drawn(), drawn())
found["use_rand=False, without guidance, alone and in a batch of two"] = far(drawn(1, 1.0), drawn(2, 1.0))
for name, value in found.items():
    print(f"{name}: the same seed differs by up to {value:.1e} of the latents' spread")
differ = [name for name, value in found.items() if value > 1e-4]
raise SystemExit(0 if differ == ["merged, twice", "merged, without guidance, alone and in a batch of two"] else 1)
PYTHON
