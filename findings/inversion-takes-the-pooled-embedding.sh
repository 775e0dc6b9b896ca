#!/usr/bin/env bash
# SDXL conditions on a pooled embedding: that of the prompt's end token, which has seen every word. transformers finds that token as the highest
# id when the config says eos_token_id 2, as SDXL's published text_encoder_2 does. Tokens of a textual inversion have higher ids: the pooled
# embedding is then theirs, and no word after the inversion counts in it. Set eos_token_id to the tokenizer's. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "diffusers==0.42.1" "numpy==2.4.6"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import pathlib
import warnings

import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()
warnings.simplefilter("ignore")
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

letters = [*"abcdefghijklmnopqrstuvwxyz,"]
words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
pathlib.Path("vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
pathlib.Path("merges.txt").write_text("#version: 0.2\n")
vector = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32}
size |= {"vocab_size": len(words), "bos_token_id": len(words) - 2}


def pooled(prompts, eos):
    torch.manual_seed(0)
    first = CLIPTextModel(CLIPTextConfig(eos_token_id=len(words) - 1, **size)).eval()
    second = CLIPTextModelWithProjection(CLIPTextConfig(eos_token_id=eos, **size)).eval()
    tokenizers = [CLIPTokenizer("vocab.json", "merges.txt", model_max_length=77) for _ in range(2)]
    pipe = StableDiffusionXLPipeline(
        vae=None, unet=None, scheduler=EulerDiscreteScheduler(), text_encoder=first, text_encoder_2=second,
        tokenizer=tokenizers[0], tokenizer_2=tokenizers[1], add_watermarker=False,
    )  # fmt: skip
    for encoder, tokenizer in zip((first, second), tokenizers):
        pipe.load_textual_inversion(vector, token="<style>", text_encoder=encoder, tokenizer=tokenizer)
    with torch.no_grad():
        return [pipe.encode_prompt(prompt, device="cpu", do_classifier_free_guidance=False)[2] for prompt in prompts]


print("transformers", transformers.__version__, "diffusers", diffusers.__version__)
found = {}
for eos in (2, len(words) - 1):
    for name in ("cat", "<style>"):
        short, long = pooled([f"a {name}", f"a {name}, at night, in deep snow"], eos)
        found[eos, name] = ((long - short).norm() / short.norm()).item()
        print(f"eos_token_id {eos}: ', at night, in deep snow' after 'a {name}' changes the pooled embedding by {found[eos, name]:.1%}")
other = found.pop((2, "<style>"))
raise SystemExit(0 if other == 0.0 and min(found.values()) > 0.1 else 1)
PYTHON
