#!/usr/bin/env bash
# A LoRA's file for the WebUI (kohya's format) says in "alpha" how strong it is: its change counts alpha / rank. diffusers writes that file with
# convert_state_dict_to_kohya, which puts the rank there, whatever the LoRA was trained with: PEFT's state dict has no alpha, and there is no argument
# for it. With lora_alpha twice the rank the WebUI draws it at half strength; with kohya's default alpha of 1 and rank 4, read by diffusers and
# written again, at four times. Nothing is said. Write the alphas yourself. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "peft==0.21.2" "transformers==5.23.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import copy

import diffusers
import peft
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_kohya

torch.manual_seed(0)
RANK = 4
bare = UNet2DConditionModel(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    norm_num_groups=8,
    layers_per_block=1,
).eval()
latents, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)


@torch.no_grad()
def drawn(unet):
    return unet(latents, 500, prompt).sample


def trained(alpha):
    """A U-Net with a LoRA on it."""
    unet = copy.deepcopy(bare)
    torch.manual_seed(1)
    layers = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=alpha, target_modules=layers, init_lora_weights=False), adapter_name="style")
    return unet


def exported(unet):
    state = {f"unet.{key}": value for key, value in peft.get_peft_model_state_dict(unet, adapter_name="style").items()}
    return convert_state_dict_to_kohya(state)


def opened(file):
    unet = copy.deepcopy(bare)
    state, alphas = StableDiffusionPipeline.lora_state_dict(dict(file), unet_config=unet.config)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet, adapter_name="style")
    return unet


def strength(unet, like):
    """At which strength of the LoRA of `like` it draws what `unet` draws."""
    off = {}
    for scale in (0.25, 0.5, 1.0, 2.0, 4.0):
        like.set_adapters("style", scale)
        off[scale] = (drawn(like) - drawn(unet)).norm().item()
    best = min(off, key=off.get)
    assert off[best] < 1e-4, off
    return best


print("diffusers", diffusers.__version__, "peft", peft.__version__)
found = []
for alpha in (RANK, 2 * RANK):
    unet = trained(alpha)
    file = exported(unet)
    written = {value.item() for key, value in file.items() if key.endswith(".alpha")}
    found.append((written, strength(opened(file), unet)))
    print(f"rank {RANK}, lora_alpha {alpha}: the file says alpha {written}, and is opened at strength {found[-1][1]}")
file = {key: torch.tensor(1.0) if key.endswith(".alpha") else value for key, value in exported(trained(RANK)).items()}
unet = opened(file)
again = exported(unet)
found.append(({value.item() for key, value in again.items() if key.endswith(".alpha")}, strength(opened(again), unet)))
print(f"rank {RANK}, a file that says alpha 1, opened and written again: alpha {found[-1][0]}, opened at strength {found[-1][1]}")
raise SystemExit(0 if found == [({RANK}, 1.0), ({RANK}, 0.5), ({RANK}, 4.0)] else 1)
PYTHON
