#!/usr/bin/env bash
# diffusers spreads a textual inversion of several vectors over the prompt when it finds the inversion's name among the tokens. transformers 5
# gives names back in small letters, so a name with a capital (EasyNegative, BadDream) is not found, and the prompt gets its first vector only:
# no warning, another picture. With transformers 4.57 all vectors arrived. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.23.0" "diffusers==0.42.1" "numpy"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import pathlib

import diffusers
import torch
import transformers

transformers.logging.set_verbosity_error()
from diffusers import DDIMScheduler, StableDiffusionPipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

letters = [*"abcdefghijklmnopqrstuvwxyz,"]
words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
pathlib.Path("vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
pathlib.Path("merges.txt").write_text("#version: 0.2\n")
vectors = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))


def arrived(name):
    """How many of the eight vectors the prompt holds, and the prompt as the U-Net would see it."""
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(words), eos_token_id=len(words) - 1, bos_token_id=len(words) - 2, **size)).eval()
    tokenizer = CLIPTokenizer("vocab.json", "merges.txt", model_max_length=77)
    absent = dict.fromkeys(("vae", "unet", "safety_checker", "feature_extractor"))
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    pipe = StableDiffusionPipeline(
        text_encoder=encoder, tokenizer=tokenizer, scheduler=scheduler, requires_safety_checker=False, **absent
    )
    pipe.load_textual_inversion({name: vectors}, token=name)
    prompt = f"a cat, {name}, grass"
    numbers = tokenizer(pipe.maybe_convert_prompt(prompt, tokenizer)).input_ids
    with torch.no_grad():
        return sum(number >= len(words) for number in numbers), pipe.encode_prompt(prompt, "cpu", 1, False)[0]


small, capital = arrived("easynegative"), arrived("EasyNegative")
apart = ((capital[1] - small[1]).norm() / small[1].norm()).item()
print("transformers", transformers.__version__, "diffusers", diffusers.__version__)
print(f"easynegative: {small[0]} of 8 vectors. EasyNegative, the same vectors: {capital[0]} of 8. The encoded prompts differ by {apart:.0%}")
raise SystemExit(0 if (small[0], capital[0]) == (8, 1) and apart > 0.1 else 1)
PYTHON
