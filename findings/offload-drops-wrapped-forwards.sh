#!/usr/bin/env bash
# A wrapper around the forward of an offloaded U-Net acts for one picture. At the end of every run a pipeline with enable_model_cpu_offload
# takes accelerate's hooks off and puts them on again, and taking one off gives the module the forward that it had when the hook came: what was
# wrapped around it since is gone, without a word. Wrapped before offloading is enabled it stays. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "accelerate==1.15.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import functools

import accelerate
import diffusers
import torch

print("diffusers", diffusers.__version__, "accelerate", accelerate.__version__)
STEPS = 3
seen = []


def pipeline():
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
    scheduler = diffusers.DDIMScheduler(steps_offset=1, clip_sample=False)
    pipe = diffusers.StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def wrap(pipe):
    """Count the calls of the U-Net's forward."""
    forward = pipe.unet.forward

    @functools.wraps(forward)
    def counted(*args, **kwargs):
        seen.append(1)
        return forward(*args, **kwargs)

    pipe.unet.forward = counted


def counted_calls(pipe):
    """Calls that the wrapper sees in each of three pictures."""
    told = []
    for _ in range(3):
        seen.clear()
        texts = {"prompt_embeds": torch.zeros(1, 3, 8), "negative_prompt_embeds": torch.zeros(1, 3, 8)}
        pipe(**texts, height=128, width=128, num_inference_steps=STEPS, output_type="latent")
        told.append(len(seen))
    return told


plain, after, before = pipeline(), pipeline(), pipeline()
wrap(plain)
after.enable_model_cpu_offload(device="cpu")
wrap(after)
wrap(before)
before.enable_model_cpu_offload(device="cpu")
found = {
    "without offloading": counted_calls(plain),
    "wrapped after enable_model_cpu_offload": counted_calls(after),
    "wrapped before it": counted_calls(before),
}
for name, calls in found.items():
    print(f"{name}: the wrapper saw {calls} of {STEPS} calls in three pictures")
expected = [[STEPS] * 3, [STEPS, 0, 0], [STEPS] * 3]
raise SystemExit(0 if list(found.values()) == expected else 1)
PYTHON
