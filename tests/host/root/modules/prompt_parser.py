"""Prompts as rows of text: AND with weights; one schedule each, so that nothing changes with the step."""

import re
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class ScheduledPromptConditioning:
    end_at_step: int
    cond: Any


@dataclass
class ComposableScheduledPromptConditioning:
    schedules: list
    weight: float = 1.0


class MulticondLearnedConditioning:
    def __init__(self, shape, batch):
        self.shape = shape
        self.batch = batch


def get_multicond_learned_conditioning(model, prompts, steps):
    batch = []
    for prompt in prompts:
        parts = []
        for part in re.split(r"\bAND\b", prompt):
            text, weight = re.fullmatch(r"(?s)(.*?)(?::\s*([\d.]+)\s*)?", part).groups()
            cond = model.get_learned_conditioning([text.strip()])[0]
            parts.append(ComposableScheduledPromptConditioning([ScheduledPromptConditioning(steps, cond)], float(weight or 1)))
        batch.append(parts)
    return MulticondLearnedConditioning((len(prompts),), batch)


def get_learned_conditioning(model, prompts, steps):
    return [[ScheduledPromptConditioning(steps, model.get_learned_conditioning([prompt])[0])] for prompt in prompts]


def reconstruct_multicond_batch(cond, step):
    """(per image a list of (row, weight), rows [N, T, C]); prompts of one batch get the longest one's length."""
    conds, rows = [], []
    for parts in cond.batch:
        conds.append([(len(rows) + k, part.weight) for k, part in enumerate(parts)])
        rows += [part.schedules[0].cond for part in parts]
    return conds, stack_conds(rows)


def reconstruct_cond_batch(uncond, step):
    return stack_conds([schedules[0].cond for schedules in uncond])


def stack_conds(rows):
    longest = max(row.shape[0] for row in rows)
    return torch.stack([torch.cat([row, row[-1:].expand(longest - row.shape[0], -1)]) for row in rows])
