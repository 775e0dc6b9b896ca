#!/usr/bin/env bash
# fuse_qkv_projections, diffusers' switch for faster attention, copies the weights of query, key and value without the LoRA that is on them: in
# self-attention all three lose it, in cross-attention key and value. A LoRA loaded afterwards is lost in the same way. Nothing is said, and the
# picture is neither the one with the LoRA nor the one without. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "peft==0.21.2" "transformers==5.23.0" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import warnings

import diffusers
import peft
import torch
from diffusers import UNet2DConditionModel

print("diffusers", diffusers.__version__, "peft", peft.__version__)
said = []
diffusers.utils.logging.get_logger("diffusers").addHandler(type("Heard", (logging.Handler,), {"emit": lambda _, record: said.append(record)})())
warnings.showwarning = lambda *told, **_: said.append(told)
noise = torch.Generator().manual_seed(0)
latents, prompt = torch.randn(1, 4, 8, 8, generator=noise), torch.randn(1, 7, 32, generator=noise)


def network():
    torch.manual_seed(1)
    return UNet2DConditionModel(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        norm_num_groups=8,
        layers_per_block=1,
    ).eval()


def load(unet, layers):
    torch.manual_seed(2)
    unet.add_adapter(peft.LoraConfig(r=4, lora_alpha=4, target_modules=layers, init_lora_weights=False))


@torch.no_grad()
def drawn(unet):
    return unet(latents, 500, prompt).sample


def apart(a, b):
    return ((a - b).norm() / b.norm()).item()


right = True
for layers in (["to_q", "to_k", "to_v"], ["to_q", "to_k", "to_v", "to_out.0"]):
    unet = network()
    without = drawn(unet)
    load(unet, layers)
    full = drawn(unet)
    unet.fuse_qkv_projections()
    fused = drawn(unet)
    unet = network()
    unet.fuse_qkv_projections()
    plain = drawn(unet)
    load(unet, layers)
    later = drawn(unet)
    does, left, off = apart(full, without), apart(fused, without), apart(fused, full)
    print(f"LoRA on {', '.join(layers)}: changes the answer by {does:.1%}; fused by {left:.1%}, and that is {off:.1%} from what it should be")
    print(f"  fusing alone changes {apart(plain, without):.1%}; a LoRA loaded after it is {apart(later, full):.1%} from what it should be")
    right &= off > does / 2 and apart(later, full) > does / 2 and apart(plain, without) < 1e-4
print("warnings:", len(said))
raise SystemExit(0 if right and not said else 1)
PYTHON
