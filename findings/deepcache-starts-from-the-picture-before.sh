#!/usr/bin/env bash
# DeepCache stays enabled over many pictures, and each is expected to fill its own cache. It counts steps from the first step of the first
# picture after enable(). Image to image at another strength begins elsewhere in the schedule, so its first steps can be "cached" ones:
# they are served from the picture before, and nothing says so. disable() and enable() between pictures. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "DeepCache==0.1.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
import transformers

transformers.logging.set_verbosity_error()
from DeepCache import DeepCacheSDHelper
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel

print("DeepCache", version("DeepCache"), "diffusers", version("diffusers"))
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
scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False)
pipe = StableDiffusionImg2ImgPipeline(vae=vae, unet=unet, scheduler=scheduler, requires_safety_checker=False, **absent)
pipe.set_progress_bar_config(disable=True)
pictures, prompts = torch.rand(3, 3, 16, 16), torch.randn(3, 7, 32)
calls, whole = [], []
unet.register_forward_pre_hook(lambda *_: calls.append(0))
unet.mid_block.resnets[0].register_forward_hook(lambda *_: whole.append(len(calls)))


def draw(number, strength):
    """One picture, and those of its U-Net calls that ran the whole U-Net."""
    calls.clear(), whole.clear()
    own = {"prompt_embeds": prompts[number, None], "image": pictures[number, None], "generator": torch.Generator().manual_seed(number)}
    return pipe(strength=strength, num_inference_steps=20, guidance_scale=1.0, output_type="latent", **own).images, list(whole)


def cached(*before):
    """Picture 0 at strength 0.6 with DeepCache, after other pictures since enable()."""
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    helper.enable()
    for number, strength in before:
        draw(number, strength)
    drawn = draw(0, 0.6)
    helper.disable()
    return drawn


def apart(a, b):
    return ((a - b).norm() / b.norm()).item()


exact, alone = draw(0, 0.6)[0], cached()
off = {"alone": apart(alone[0], exact)}
print(f"alone: whole U-Net in calls {alone[1]} of 12, {off['alone']:.1%} from the picture without DeepCache")
steps = [alone[1]]
for title, before in (("after picture 1 at 0.6", (1, 0.6)), ("after picture 1 at 0.5", (1, 0.5)), ("after picture 2 at 0.5", (2, 0.5))):
    drawn = cached(before)
    off[title] = apart(drawn[0], exact)
    steps.append(drawn[1])
    print(f"{title}: whole U-Net in calls {drawn[1]}, {off[title]:.1%} from it; equal to the one drawn alone: {torch.equal(drawn[0], alone[0])}")
between = apart(cached((1, 0.5))[0], cached((2, 0.5))[0])
print(f"the same picture after picture 1 and after picture 2: {between:.1%} apart")
right = steps == [[1, 4, 7, 10]] * 2 + [[3, 6, 9, 12]] * 2 and off["alone"] == off["after picture 1 at 0.6"]
right &= off["after picture 1 at 0.5"] > 3 * off["alone"] and between > 3 * off["alone"]
raise SystemExit(0 if right else 1)
PYTHON
