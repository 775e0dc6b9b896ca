#!/usr/bin/env bash
# add_noise of a diffusers scheduler adds noise "at the specified timesteps", and does so until a pipeline has run image to image with it. From
# then on Euler, Heun, DPM++, UniPC and more add the noise of the step where that run stands, whatever they are told: after it, none. Whoever
# noises pictures with a pipeline's scheduler gets them back clean; DDIM does as told. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, UNet2DConditionModel

print("diffusers", diffusers.__version__)
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=64,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    norm_num_groups=8,
    layers_per_block=1,
)
vae = AutoencoderKL(norm_num_groups=8, block_out_channels=(8,))
absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
prompt, picture = torch.randn(1, 7, 32), torch.rand(1, 3, 16, 16)
clean, noise = torch.zeros(2, 4, 64, 64), torch.randn(2, 4, 64, 64)
told = {}
for name in ("EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep", "DDIM"):
    offsets = {"steps_offset": 1, "clip_sample": False} if name == "DDIM" else {"steps_offset": 1}
    beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = getattr(diffusers, name + "Scheduler")(**beta, **offsets)
    pipe = StableDiffusionImg2ImgPipeline(vae=vae, unet=unet, scheduler=scheduler, requires_safety_checker=False, **absent)
    pipe.set_progress_bar_config(disable=True)
    scheduler.set_timesteps(20)
    asked = scheduler.timesteps[[3, 15]]

    def added(*_):
        return [round(level, 2) for level in scheduler.add_noise(clean, noise, asked).std((1, 2, 3)).tolist()]

    def midway(pipe, step, timestep, tensors):
        seen.extend(added() if step == 3 else [])
        return {}

    before, seen = added(), []
    pipe(prompt_embeds=prompt, guidance_scale=1.0, image=picture, strength=0.5, num_inference_steps=20, output_type="latent", callback_on_step_end=midway)
    told[name] = [before == level for level in (seen, added())] + [added() == [0.0, 0.0]]
    print(f"{name}, noise at timesteps {[int(t) for t in asked]}: {before}; during an image-to-image run {seen}; after it {added()}")
right = all(found == ([True, True, False] if name == "DDIM" else [False, False, True]) for name, found in told.items())
raise SystemExit(0 if right else 1)
PYTHON
