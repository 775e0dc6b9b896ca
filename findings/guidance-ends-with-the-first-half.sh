#!/usr/bin/env bash
# diffusers' modular pipelines leave guidance to a guider, which stops after a fraction of the steps: stop=1.0 is the default, so never. It counts the
# times that the network is asked, but compares with the number of steps that was asked for. Heun, DPM2 and DPM2 ancestral ask twice a step: of 20
# steps the first 10 are guided, and in the other 10, which make the details, the network isn't asked about the negative prompt at all. With an exact
# network most of what guidance does is lost; the ordinary pipeline guides to the end. With stop=0.5 only the first quarter is guided. PNDM asks once
# more than it has steps, and its last time isn't guided. Euler, DDIM and DPM++ are right. Nothing is said, and it looks like a weak, fast sampler.
# Give the timesteps themselves (timesteps=): then they are counted right. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy==2.4.6"
export TQDM_DISABLE=1
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()
from diffusers import AutoencoderKL, ClassifierFreeGuidance, StableDiffusionXLAutoBlocks, StableDiffusionXLPipeline, UNet2DConditionModel

print("diffusers", diffusers.__version__, "torch", torch.__version__)
said, rows = [], []
diffusers.utils.logging.disable_default_handler()
diffusers.utils.logging.get_logger("diffusers").addHandler(type("Heard", (logging.Handler,), {"emit": lambda _, record: said.append(record)})())
warnings.showwarning = lambda *told, **_: said.append(told)


def scheduler(name):
    more = {"PNDM": {"skip_prk_steps": True}, "DDIM": {"clip_sample": False}}.get(name, {})
    return getattr(diffusers, f"{name}Scheduler")(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **more)


torch.manual_seed(0)
vae = AutoencoderKL(norm_num_groups=8, block_out_channels=(8,), force_upcast=False).eval()
unet = UNet2DConditionModel(
    sample_size=16,
    block_out_channels=(32,),
    layers_per_block=1,
    cross_attention_dim=8,
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    mid_block_type=None,
    addition_embed_type="text_time",
    addition_time_embed_dim=8,
    projection_class_embeddings_input_dim=8 + 6 * 8,
).eval()
absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
# The prompt is all 0.5, the negative one all -0.5, and that is the mean of the pictures that they stand for.
embeds = {"prompt_embeds": torch.full((1, 7, 8), 0.5), "negative_prompt_embeds": torch.full((1, 7, 8), -0.5)}
embeds |= {name: torch.zeros(1, 8) for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")}
steps, scale, spread = 20, 7.5, 0.5
kept = scheduler("DDIM").alphas_cumprod.double()


def exact(latents, timestep, encoder_hidden_states, **_):
    """What an exact network answers where every value of every picture is drawn alone around the prompt's mean."""
    rows.append(len(latents))
    mean = encoder_hidden_states[:, :1, :1, None].double()
    below = int(timestep)
    levels = ((1 - kept) / kept).log() / 2
    noise = torch.lerp(levels[below], levels[min(below + 1, 999)], float(timestep) - below).exp()
    alpha = (1 + noise**2) ** -0.5
    sigma = noise * alpha
    picture = mean + alpha * spread**2 / (alpha**2 * spread**2 + sigma**2) * (latents - alpha * mean)
    return (((latents - alpha * picture) / sigma).to(latents.dtype),)


unet.forward = exact


class CountedRight(ClassifierFreeGuidance):
    """Told how often the network is asked, not how many steps were asked for."""

    asked = None

    def set_state(self, step, num_inference_steps, timestep):
        super().set_state(step, self.asked, timestep)


def drawn(pipe, **options):
    rows.clear()
    said.clear()
    return pipe(**embeds, height=16, width=16, generator=torch.Generator().manual_seed(1), **options)


def ordinary(name, guidance_scale, **options):
    pipe = StableDiffusionXLPipeline(unet=unet, vae=vae, scheduler=scheduler(name), **absent)
    pipe.set_progress_bar_config(disable=True)
    return drawn(pipe, guidance_scale=guidance_scale, output_type="latent", **options).images


def modular(name, guider, **options):
    blocks = StableDiffusionXLAutoBlocks()
    for block in ("text_encoder", "decode"):
        blocks.sub_blocks.pop(block)
    pipe = blocks.init_pipeline()
    pipe.update_components(unet=unet, vae=vae, scheduler=scheduler(name), guider=guider)
    latents = drawn(pipe, output="latents", **options)
    return latents, list(rows)


expected = {
    "EulerDiscrete": (20, 20),
    "DDIM": (20, 20),
    "DPMSolverMultistep": (20, 20),
    "HeunDiscrete": (39, 20),
    "KDPM2Discrete": (39, 20),
    "KDPM2AncestralDiscrete": (39, 20),
    "PNDM": (21, 20),
    "HeunDiscrete, timesteps given": (39, 39),
}
same = True
print(f"{steps} steps at scale {scale}, pictures around 0.5 by the prompt, around -0.5 by the negative prompt; what is drawn:")
for title, (calls, guided) in expected.items():
    name, _, given = title.partition(", ")
    options = {"timesteps": list(range(950, -1, -50))} if given else {"num_inference_steps": steps}
    right, without = (ordinary(name, each, **options).mean().item() for each in (scale, 1.0))
    latents, asked = modular(name, ClassifierFreeGuidance(guidance_scale=scale), **options)
    heard, found = len(said), latents.mean().item()
    # With guidance the network is asked twice, each time for one picture.
    both = len(asked) - calls
    guider = CountedRight(guidance_scale=scale)
    guider.asked = calls
    again = modular(name, guider, **options)[0].mean().item()
    half = len(modular(name, ClassifierFreeGuidance(guidance_scale=scale, stop=0.5), **options)[1]) - calls
    told = f"unguided {without:.2f}, ordinary pipeline {right:.2f}, modular {found:.2f}, counted right {again:.2f}"
    print(f"{title}: {told}; guided {both} of {calls} times, with stop=0.5 {half}; warnings: {heard}")
    same &= both == guided and half == guided // 2 and abs(again - right) < 0.01 and not heard
    lost = (right - found) / (right - without)
    same &= lost > 0.5 if calls == 39 and not given else abs(lost) < 0.01
raise SystemExit(0 if same else 1)
PYTHON
