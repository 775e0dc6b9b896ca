"""Prompts as rows of text: AND with weights, ``[a:b:when]`` and ``[a|b]``.

Text is a tensor [rows, tokens, width], or for SDXL a dict of tensors by row.
"""

import re
from dataclasses import make_dataclass

import torch

ScheduledPromptConditioning = make_dataclass("ScheduledPromptConditioning", ["end_at_step", "cond"])
ComposableScheduledPromptConditioning = make_dataclass("ComposableScheduledPromptConditioning", ["schedules", "weight"])
MulticondLearnedConditioning = make_dataclass("MulticondLearnedConditioning", ["shape", "batch"])


class DictWithShape(dict):
    @property
    def shape(self):
        return self["crossattn"].shape


def each(change, *conds):
    """``change`` of the tensors of ``conds``, entry by entry where they are dicts."""
    if isinstance(conds[0], dict):
        return DictWithShape({key: change(*(cond[key] for cond in conds)) for key in conds[0]})
    return change(*conds)


def cat(*conds):
    return each(lambda *tensors: torch.cat(tensors), *conds)


def lengthened(cond, length):
    """``cond`` with the last vector of its text repeated up to ``length`` tokens; vectors by row stay."""
    return each(lambda t: t if t.ndim < 3 else torch.cat([t, t[:, -1:].expand(-1, length - t.shape[1], -1)], 1), cond)


def _texts(text, steps):
    """[(last step, text)] of ``[a:b:when]`` and ``[a|b]``, one of them in a prompt."""
    found = re.search(r"\[([^\[\]|:]*)(?::([^\[\]|:]*):([\d.]+)|\|([^\[\]|:]*))\]", text)
    if not found:
        return [(steps, text)]
    first, then, when, other = found.groups()
    before, after = text[: found.start()], text[found.end() :]
    if when is None:
        return [(step, before + (first, other)[(step - 1) % 2] + after) for step in range(1, steps + 1)]
    last = int(float(when) * steps) if "." in when else int(when)
    return [(last, before + first + after), (steps, before + then + after)]


def get_learned_conditioning_prompt_schedules(prompts, base_steps, hires_steps=None, use_old_scheduling=False):
    return [[list(entry) for entry in _texts(prompt, base_steps)] for prompt in prompts]


def parse_prompt_attention(text):
    """[text, weight] of ``(words:1.2)`` and of what stands between; BREAK is one of weight -1."""
    parts = []
    for plain, inner, weight in re.findall(r"([^()]+)|\(([^()]*):([\d.]+)\)", text):
        for number, part in enumerate(re.split(r"\s*\bBREAK\b\s*", plain or inner)):
            parts += [["BREAK", -1]] * (number > 0) + [[part, float(weight or 1)]]
    return parts or [["", 1.0]]


def _schedules(model, text, steps):
    return [ScheduledPromptConditioning(last, model.get_learned_conditioning([words])[0]) for last, words in _texts(text, steps)]


def _now(schedules, step):
    return next((entry for entry in schedules if step <= entry.end_at_step), schedules[0]).cond


def get_learned_conditioning(model, prompts, steps):
    return [_schedules(model, prompt, steps) for prompt in prompts]


def get_multicond_learned_conditioning(model, prompts, steps):
    batch = []
    for prompt in prompts:
        parts = [re.fullmatch(r"(?s)(.*?)(?::\s*([\d.]+)\s*)?", part).groups() for part in re.split(r"\bAND\b", prompt)]
        batch.append([ComposableScheduledPromptConditioning(_schedules(model, t.strip(), steps), float(w or 1)) for t, w in parts])
    return MulticondLearnedConditioning((len(prompts),), batch)


def reconstruct_multicond_batch(cond, step):
    """(per image a list of (row, weight), rows [N, T, C]); prompts of one batch get the longest one's length."""
    conds, rows = [], []
    for parts in cond.batch:
        conds.append([(len(rows) + k, part.weight) for k, part in enumerate(parts)])
        rows += [_now(part.schedules, step) for part in parts]
    return conds, stack_conds(rows)


def reconstruct_cond_batch(uncond, step):
    return stack_conds([_now(schedules, step) for schedules in uncond])


def stack_conds(conds):
    longest = max(cond.shape[1] for cond in conds)
    return cat(*(lengthened(cond, longest) for cond in conds))
