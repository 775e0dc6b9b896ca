#!/usr/bin/env bash
# In diffusers a LoRA set to half strength (set_adapters) is at full strength after one call with scale 0, which is how to see the picture without it:
# every later picture is wrong. fuse_lora(lora_scale=0.5), done for speed, and unfuse_lora leave it at half, and the second such pair at a quarter.
# Other scales are undone as they should be. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "peft==0.21.2" "transformers==5.23.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel

torch.manual_seed(0)
unet = UNet2DConditionModel(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    norm_num_groups=8,
    layers_per_block=1,
).eval()
layers = ["to_q", "to_k", "to_v", "to_out.0"]
unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False), adapter_name="style")
latents, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)


@torch.no_grad()
def drawn(**scale):
    return unet(latents, 500, prompt, cross_attention_kwargs=scale or None).sample


at = {}
for strength in (0.0, 0.25, 0.5, 1.0):
    unet.set_adapters("style", strength)
    at[strength] = drawn()


def strength_now():
    return min(at, key=lambda strength: (drawn() - at[strength]).norm())


print("diffusers", diffusers.__version__, "peft", peft.__version__)
found = []
for scale in (0.3, 0.0):
    unet.set_adapters("style", 0.5)
    drawn(scale=scale)
    found.append(strength_now())
    moved = (drawn() - at[0.5]).norm() / (at[0.5] - at[0.0]).norm()
    print(f"set to 0.5, one call with scale {scale}: strength {found[-1]}; the answer moved by {moved:.0%} of what the LoRA did")
unet.set_adapters("style", 1.0)
for _ in range(2):
    unet.fuse_lora(lora_scale=0.5)
    fused = strength_now()
    unet.unfuse_lora()
    found += [fused, strength_now()]
    print(f"fuse_lora(lora_scale=0.5): strength {fused}; unfuse_lora(): strength {found[-1]}")
raise SystemExit(0 if found == [0.5, 1.0, 0.5, 0.5, 0.25, 0.25] else 1)
PYTHON
