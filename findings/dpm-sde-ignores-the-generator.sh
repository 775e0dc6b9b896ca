#!/usr/bin/env bash
# A generator given to a diffusers pipeline is there "to make generation deterministic". With DPMSolverSDEScheduler (DPM++ SDE) the first noise
# comes from it, but that of the steps from a seed drawn from torch's global state: the same generator gives another picture each time. Only
# the scheduler's own noise_sampler_seed holds it still. The other samplers that add noise obey. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "torchsde==0.2.6" "scipy==1.17.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()
warnings.simplefilter("ignore")
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

print("diffusers", diffusers.__version__, "torchsde", version("torchsde"))
torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=16,
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    norm_num_groups=8,
    layers_per_block=1,
)
vae = AutoencoderKL(norm_num_groups=8, block_out_channels=(8,))
absent = dict.fromkeys(("text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
prompt = torch.randn(1, 7, 32)
beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
found = {}
for name, more in (
    ("EulerAncestralDiscrete", {}),
    ("KDPM2AncestralDiscrete", {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSDE", {}),
    ("DPMSolverSDE", {"noise_sampler_seed": 0}),
):
    scheduler = getattr(diffusers, name + "Scheduler")(**beta, **more)
    pipe = StableDiffusionPipeline(vae=vae, unet=unet, scheduler=scheduler, requires_safety_checker=False, **absent)
    pipe.set_progress_bar_config(disable=True)

    def drawn(pipe=pipe):
        own = torch.Generator().manual_seed(7)
        return pipe(prompt_embeds=prompt, generator=own, num_inference_steps=6, guidance_scale=1.0, output_type="latent").images

    first, second = drawn(), drawn()
    title = " ".join([name, *(f"{key}={value}" for key, value in more.items())])
    found[title] = ((first - second).norm() / first.norm()).item()
    print(f"{title}: two pictures with the same seed in the generator are {found[title]:.1%} apart")
lost = found.pop("DPMSolverSDE")
raise SystemExit(0 if lost > 0.1 and not any(found.values()) else 1)
PYTHON
