"""The text encoder's own lesson: to know from its output what a caption asks for.

Alone, it learns that in a minute or two; through the U-Net it takes most of the training. Every position after the
caption's end sees the whole caption, so that is where a linear layer reads the answer; it is thrown away afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lib_accel.sample import captions, scenes
from lib_accel.sample.architecture import TEXT_ENCODER, TOKENS

from . import latents
from .training import precision_for

_ITEM_WORDS = (scenes.SHAPES, tuple(scenes.COLOURS), scenes.TEXTURES, tuple(scenes.SIZES))
COUNTS = (len(scenes.BACKGROUNDS), 1 + len(scenes.RELATIONS), *(2 * [len(words) for words in _ITEM_WORDS]))
UNSAID = -100  # what cross-entropy passes over


def answers(text: str) -> list:
    """Classes in the order of COUNTS: background, relation (0: none), then shape, colour, texture, size of two objects."""
    wanted = captions.parse(text)
    found = [UNSAID if wanted.background is None else scenes.BACKGROUNDS.index(wanted.background)]
    found.append(0 if wanted.relation is None else 1 + scenes.RELATIONS.index(wanted.relation))
    for place in range(2):
        item = wanted.items[place] if place < len(wanted.items) else (None,) * 4
        found += [UNSAID if word is None else words.index(word) for words, word in zip(_ITEM_WORDS, item)]
    return found


class ReadingHead(nn.Module):
    """Reads the answers off the mean of the text encoder's output at the positions after the caption."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(TEXT_ENCODER["hidden_size"], sum(COUNTS))

    def loss(self, context: torch.Tensor, texts: list, lengths: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of the text encoder's output (rows, 77, channels); lengths: tokens before the padding, (rows,)."""
        targets = torch.tensor([answers(text) for text in texts], device=context.device)
        after = (torch.arange(context.shape[1], device=context.device)[None] >= lengths[:, None] - 1)[..., None].float()
        pooled = (context.float() * after).sum(1) / after.sum(1)
        parts = self.project(pooled).float().split(list(COUNTS), 1)
        losses = [functional.cross_entropy(part, targets[:, index], reduction="sum") for index, part in enumerate(parts)]
        return sum(losses) / (targets != UNSAID).sum().clamp(min=1)


def tokens_of(tokenizer, texts: list, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded token numbers (rows, 77) and how many of each row come before its padding (rows,)."""
    encoded = tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return encoded.input_ids.to(device), encoded.attention_mask.sum(1).to(device)


def pretrain(text_encoder, head: ReadingHead, tokenizer, steps: int, seed: int, device, rate: float = 1.5e-3, rows: int = 96) -> float:
    """Teach the text encoder to read, `steps` batches of `rows` captions. Returns the last loss."""
    modules = (text_encoder, head)
    optimizer = torch.optim.AdamW([p for module in modules for p in module.parameters()], lr=rate, betas=(0.9, 0.99), weight_decay=1e-2)
    losses = []
    for step in range(steps):
        rng = np.random.default_rng((seed, 17, step))
        texts = []
        for _ in range(rows):
            text = captions.caption(latents.training_scene(seed, int(rng.integers(1 << 20))), rng)
            texts.append(captions.disturb(text, rng) if rng.random() < 0.15 else text)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 50) * (1 - 0.9 * step / steps)
        tokens, lengths = tokens_of(tokenizer, texts, device)
        with precision_for(device):
            loss = head.loss(text_encoder(tokens)[0], texts, lengths)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for module in modules for p in module.parameters()], 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            print(f"reading  step {step + 1}  loss {np.mean(losses[-50:]):.4f}", flush=True)
    return float(np.mean(losses[-50:])) if losses else float("nan")
