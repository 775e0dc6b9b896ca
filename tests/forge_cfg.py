"""Our own twin of what the Forge family does with one CFG call: patchers, batching by memory and length, marks, the formula.

Written from a description (FORGE.md 5 and 7 of the project's notes). Sigmas are k-diffusion's; whatever wraps `apply_model` sees pictures.
"""

from __future__ import annotations

import copy
import math
from types import FunctionType, SimpleNamespace

import torch
from torch import nn

COND, UNCOND = 0, 1


class KModel(nn.Module):
    """The module around a U-Net. kind: ``epsilon`` | ``v_prediction`` | ``const`` (flow matching)."""

    def __init__(self, unet: nn.Module, kind: str = "epsilon") -> None:
        super().__init__()
        self.diffusion_model = unet
        self.predictor = SimpleNamespace(prediction_type=kind)

    def memory_required(self, shape: list[int]) -> int:
        return shape[0]

    def apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **more):
        """The picture that the U-Net predicts in ``x``, latents of noise level ``t`` [rows]."""
        sigma = t[:, None, None, None]
        flow = self.predictor.prediction_type == "const"
        xc = x if flow else x / (sigma**2 + 1) ** 0.5
        xc = xc if c_concat is None else torch.cat([xc, c_concat], dim=1)
        timestep = t if flow else 999 * t / (t + 1)
        out = self.diffusion_model(xc, timestep, context=c_crossattn, control=control, transformer_options=transformer_options, **more)
        if self.predictor.prediction_type == "v_prediction":
            return x / (sigma**2 + 1) - out * sigma / (sigma**2 + 1) ** 0.5
        return x - out * sigma


class Transformer(nn.Module):
    """Has the face of the family's diffusion transformers: latents, a timestep, a context; nothing of a U-Net. Returns a velocity."""

    def __init__(self, seed: int = 0, width: int = 64) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.into, self.text, self.out = nn.Conv2d(4, width, 2, 2), nn.LazyLinear(width), nn.ConvTranspose2d(width, 4, 2, 2)
            self.ran = 0

    def forward(self, x, timestep, context, y=None, guidance=None, ref_latents=None, control=None, transformer_options=None, **more):
        self.ran += 1
        hidden = self.into(x) + self.text(context.mean(1))[:, :, None, None] + timestep[:, None, None, None]
        return self.out(torch.tanh(hidden))


# As its home tells, and that of its code.
Transformer.__module__ = "backend.nn.flux"
Transformer.forward = FunctionType(
    Transformer.forward.__code__, {**globals(), "__name__": Transformer.__module__}, "forward", Transformer.forward.__defaults__
)


class Patcher:
    """What a pass patches; lasts one pass, the model in it stays. A clone copies its options in depth."""

    def __init__(self, model: KModel) -> None:
        self.model = model
        self.model_options: dict = {"transformer_options": {}}
        self.controlnet_linked_list = self.extra_concat_condition = None

    def clone(self) -> Patcher:
        made = Patcher(self.model)
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def _append(self, name, value):
        self.model_options[name] = [*self.model_options.get(name, []), value]

    def add_conditioning_modifier(self, modifier, ensure_uniqueness=False):
        self._append("conditioning_modifiers", modifier)

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def set_model_sampler_cfg_function(self, function, disable_cfg1_optimization=False):
        self.model_options["sampler_cfg_function"] = function
        self.model_options["disable_cfg1_optimization"] = disable_cfg1_optimization

    def set_model_sampler_post_cfg_function(self, function, disable_cfg1_optimization=False):
        self._append("sampler_post_cfg_function", function)
        if disable_cfg1_optimization:
            self.model_options["disable_cfg1_optimization"] = True

    def set_model_patch(self, patch, name):
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches[name] = [*patches.get(name, []), patch]

    def set_model_attn1_replace(self, patch, block_name, number, transformer_index=None):
        by_place = self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn1", {})
        by_place[(block_name, number) if transformer_index is None else (block_name, number, transformer_index)] = patch


def conditions(text, strength: float | None = None) -> list[dict]:
    """One conditioning as the host holds it: a tensor, or SDXL's dictionary."""
    made = {"c_crossattn": text["crossattn"], "y": text["vector"]} if isinstance(text, dict) else {"c_crossattn": text}
    return [{"model_conds": made} | ({} if strength is None else {"strength": strength})]


def sampling_function(patcher: Patcher, x, sigma, uncond, cond, cond_scale, room: float = math.inf, more: dict | None = None):
    """(denoised, cond, uncond), pictures [B, 4, h, w]. room: the rows of a U-Net call that fit into memory."""
    model, options, seed = patcher.model, {**patcher.model_options, **(more or {})}, 0
    for modifier in options.get("conditioning_modifiers", ()):
        model, x, sigma, uncond, cond, cond_scale, options, seed = modifier(model, x, sigma, uncond, cond, cond_scale, options, seed)
    strength = sum(part.get("strength", 1) for part in cond)
    shortcut = math.isclose(cond_scale, 1.0) and not options.get("disable_cfg1_optimization", False)
    c, u = calc_cond_uncond_batch(model, cond, None if shortcut else uncond, x, sigma, options, room)
    if "sampler_cfg_function" in options:
        given = {"cond": x - c, "uncond": x - u, "cond_scale": cond_scale, "input": x, "sigma": sigma, "model_options": options}
        denoised = x - options["sampler_cfg_function"](given)
    else:
        denoised = u + (c - u) * cond_scale * (1 if math.isclose(strength, 1.0) else strength)
    for function in options.get("sampler_post_cfg_function", ()):
        given = {"denoised": denoised, "cond": cond, "uncond": uncond, "cond_denoised": c, "uncond_denoised": u, "sigma": sigma}
        denoised = function(given | {"input": x, "model": model, "model_options": options})
    return denoised, c, u


def calc_cond_uncond_batch(model: KModel, cond, uncond, x, sigma, options, room: float = math.inf):
    """The predictions of both, batched backwards as far as ``room`` and the texts' lengths allow; zeros where there is none."""
    left = [(part, COND) for part in cond] + [(part, UNCOND) for part in uncond or ()]
    sums = [torch.zeros_like(x), torch.zeros_like(x)]
    counts = [1e-37, 1e-37]
    while left:
        alike = [place for place, one in enumerate(left) if _joins(one[0], left[0][0])][::-1]
        batch = next((alike[: len(alike) // n] for n in range(1, len(alike) + 1) if len(alike) // n * len(x) <= room), alike[:1])
        chosen = [left.pop(place) for place in batch]
        marks = [mark for _, mark in chosen]
        rows = [mark for mark in marks for _ in range(len(x))]
        transformer_options = dict(options.get("transformer_options", {})) | {
            "cond_or_uncond": list(marks),
            "sigmas": sigma,
            "cond_mark": torch.tensor(rows).to(sigma),
            "cond_indices": [place for place, mark in enumerate(rows) if mark == COND],
            "uncond_indices": [place for place, mark in enumerate(rows) if mark == UNCOND],
        }
        given = _joined([part["model_conds"] for part, _ in chosen], len(x)) | {"transformer_options": transformer_options}
        latents, levels = torch.cat([x] * len(chosen)), torch.cat([sigma] * len(chosen))
        wrapper = options.get("model_function_wrapper")
        if wrapper is None:
            out = model.apply_model(latents, levels, **given)
        else:
            out = wrapper(model.apply_model, {"input": latents, "timestep": levels, "c": given, "cond_or_uncond": marks})
        for (part, mark), rows_out in zip(chosen, out.chunk(len(chosen))):
            weight = part.get("strength", 1.0)
            sums[mark] = sums[mark] + rows_out * weight
            counts[mark] += weight
    return sums[COND] / counts[COND], sums[UNCOND] / counts[UNCOND]


def _joins(one, other) -> bool:
    """Texts of other lengths are repeated to a common one, where it is not much longer."""
    a, b = one["model_conds"]["c_crossattn"].shape[1], other["model_conds"]["c_crossattn"].shape[1]
    return a == b or math.lcm(a, b) // min(a, b) <= 4


def _joined(given: list[dict], images: int) -> dict:
    length = math.lcm(*(one["c_crossattn"].shape[1] for one in given))
    joined = {}
    for name in given[0]:
        tensors = [one[name] if len(one[name]) == images else one[name][:1].repeat(images, *[1] * (one[name].ndim - 1)) for one in given]
        if name == "c_crossattn":
            tensors = [tensor.repeat(1, length // tensor.shape[1], 1) for tensor in tensors]
        joined[name] = torch.cat(tensors)
    return joined
