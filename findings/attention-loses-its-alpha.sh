#!/usr/bin/env bash
# A LoRA's file in kohya's format has an "alpha" for every layer: its change counts alpha / rank. Files whose layers differ in rank (shrunk to what each
# layer needs, or trained by blocks) have alphas to match. diffusers hands PEFT the alphas that differ by name, those of attention under names that
# no layer has (".processor.to_q_lora.down.weight"), and all of a text encoder's with "text_model.", which transformers 5 does without. PEFT finds
# none of these, warns of names that are not in the file, and goes on: such layers get the file's most common alpha over their own rank. Only the
# U-Net's feed-forward layers are right, and the picture is another one. The same LoRA with one alpha everywhere, the rest multiplied into its
# weights, arrives as it should. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "peft==0.21.2" "transformers==5.23.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import copy
import itertools
import warnings

import diffusers
import peft
import torch
import transformers

transformers.logging.set_verbosity_error()
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

print("diffusers", diffusers.__version__, "peft", peft.__version__)
said = []
warnings.showwarning = lambda told, *_, **__: said.append(str(told))
torch.manual_seed(0)
unet = UNet2DConditionModel(
    block_out_channels=(32, 64),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=32,
    norm_num_groups=8,
    layers_per_block=1,
).eval()
text = CLIPTextModel(CLIPTextConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, vocab_size=99)).eval()
latents, words = torch.randn(1, 4, 8, 8), torch.randint(99, (1, 7))

# One LoRA at half strength in every layer (alpha = rank / 2), and the same changes with alpha 1 everywhere.
differing, same, change, ranks = {}, {}, {}, itertools.cycle((4, 8, 16, 4, 8))
for start, model in (("lora_unet_", unet), ("lora_te_text_model_", text)):
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and any(part in name for part in (".attn", ".ff.", ".self_attn.", ".mlp.")):
            rank, key = next(ranks), start + name.replace(".", "_")
            down, up = torch.randn(rank, layer.in_features), torch.randn(layer.out_features, rank)
            differing |= {key + ".lora_down.weight": down, key + ".lora_up.weight": up, key + ".alpha": torch.tensor(rank / 2)}
            same |= {key + ".lora_down.weight": down, key + ".lora_up.weight": up * rank / 2, key + ".alpha": torch.tensor(1.0)}
            change[start, name] = up @ down / 2


@torch.no_grad()
def opened(file):
    """The picture, and by kind of layer how much of its change arrives."""
    models, arrived = {"lora_unet_": copy.deepcopy(unet), "lora_te_text_model_": copy.deepcopy(text)}, {}
    state, alphas = StableDiffusionPipeline.lora_state_dict(dict(file), unet_config=unet.config)
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, models["lora_unet_"], adapter_name="style")
    StableDiffusionPipeline.load_lora_into_text_encoder(state, alphas, models["lora_te_text_model_"], adapter_name="style")
    for (start, name), right in change.items():
        got = models[start].get_submodule(name).get_delta_weight("style")
        assert torch.cosine_similarity(got.flatten(), right.flatten(), 0) > 0.9999
        kind = ("U-Net" if "unet" in start else "text encoder") + (", attention" if "attn" in name else ", feed-forward")
        arrived.setdefault(kind, set()).add(round((got.norm() / right.norm()).item(), 2))
    prompt = models["lora_te_text_model_"](words).last_hidden_state
    return models["lora_unet_"](latents, 500, prompt).sample, {kind: sorted(found) for kind, found in arrived.items()}


right, first = opened(same)
wrong, second = opened(differing)
for title, found in (("one alpha", first), ("alphas that differ", second)):
    print(f"{title}: " + "; ".join(f"{kind} {', '.join(map(str, found[kind]))}" for kind in found), "of what the file says")
off = ((wrong - right).norm() / right.norm()).item()
print(f"the U-Net's answer is off by {off:.0%}")
for told in said:
    print("warning:", told[:150], "...")
ok = all(found == [1.0] for found in first.values()) and second.pop("U-Net, feed-forward") == [1.0]
raise SystemExit(0 if ok and all(len(found) > 1 for found in second.values()) and off > 0.1 else 1)
PYTHON
