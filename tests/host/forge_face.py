"""The host double as one of the Forge family: what differs from AUTOMATIC1111's is put over it (FORGE.md of the project's notes).

A CFG call's callback has one row for each picture; the host batches afterwards, by memory and length, and marks its calls. Models are
engines that are no modules, and load with the first job. There is no `sd_hijack` and there are no hypernetworks.
"""

from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forge_cfg
import models

FOLDER = Path(__file__).resolve().parent / "forge"
MISSING = ("sd_hijack", "hypernetworks")


class FakeInitialModel:
    """What stands for a model before the first job."""


class ForgeObjects:
    def __init__(self, unet: forge_cfg.Patcher) -> None:
        self.unet = unet

    def shallow_copy(self) -> ForgeObjects:
        return copy.copy(self)


class Engine:
    """`shared.sd_model`: no module, no ``.model``, no ``alphas_cumprod``."""

    def __init__(self, unet: Any, name: str, kind: str, width: int, text: type, predicts: str = "epsilon") -> None:
        self.forge_objects_original = ForgeObjects(forge_cfg.Patcher(forge_cfg.KModel(unet, predicts)))
        self.forge_objects = self.forge_objects_original.shallow_copy()
        for other in ("sd1", "sd2", "sdxl", "sd3"):
            setattr(self, f"is_{other}", kind == other)
        self.sd_checkpoint_info = SimpleNamespace(name=name, title=name, filename=f"{name}.safetensors")
        self.width, self.encoder_noise = width, 0.0
        setattr(self, "text_processing_engine_l" if kind == "sdxl" else "text_processing_engine", text())


def denoiser_of(base: type) -> type:
    """The CFG denoiser of that family, made of the double's."""
    from modules import prompt_parser, sd_samplers_common, shared
    from modules.script_callbacks import AfterCFGCallbackParams, CFGDenoiserParams, dispatch

    class CFGDenoiserKDiffusion(base):
        # Rows of a U-Net call that fit into memory.
        room = math.inf
        need_last_noise_uncond = False

        def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond, **more):
            if shared.state.interrupted or shared.state.skipped:
                raise sd_samplers_common.InterruptedException
            if sd_samplers_common.apply_refiner(self):
                cond, uncond = self.sampler.sampler_extra_args["cond"], self.sampler.sampler_extra_args["uncond"]
            composition, text = prompt_parser.reconstruct_multicond_batch(cond, self.step)
            negative = None if uncond is None else prompt_parser.reconstruct_cond_batch(uncond, self.step)
            steps = shared.state.sampling_step, shared.state.sampling_steps
            params = CFGDenoiserParams(x, image_cond, sigma, *steps, text, negative, denoiser=self)
            dispatch("cfg_denoiser", params)
            if self.p.is_hr_pass:
                cond_scale = self.p.hr_cfg
            opts = shared.opts
            early = 0 < self.step / self.total_steps <= opts.skip_early_cond
            if early or ((self.step % 2 or opts.s_min_uncond_all) and 0 < sigma[0] < s_min_uncond):
                cond_scale = 1.0
            parts = []
            for part in zip(*composition):
                rows = [row for row, _ in part]
                parts += forge_cfg.conditions(prompt_parser.each(lambda t, rows=rows: t[rows], params.text_cond), part[-1][1])
            none = params.text_uncond is None
            negatives = None if none else forge_cfg.conditions(params.text_uncond)
            patcher = shared.sd_model.forge_objects.unet
            given = (patcher, params.x, params.sigma, negatives, parts, cond_scale, self.room)
            denoised, _, _ = forge_cfg.sampling_function(*given, more.get("model_options"))
            self.sampler.last_latent = shared.state.current_latent = denoised
            after = AfterCFGCallbackParams(denoised, *steps)
            dispatch("cfg_after_cfg", after)
            self.step += 1
            return after.x

    return CFGDenoiserKDiffusion


def install(host: Any) -> None:
    """Put the family's face over the modules of ``host``, before its scripts are loaded."""
    import modules
    from modules import processing, sd_models, sd_samplers_cfg_denoiser

    sys.path.insert(0, str(FOLDER))
    for name in MISSING:
        sys.modules[f"modules.{name}"] = None
        vars(modules).pop(name, None)
    sd_samplers_cfg_denoiser.CFGDenoiser = denoiser_of(sd_samplers_cfg_denoiser.CFGDenoiser)
    data = sd_models.model_data
    data.sd_model = FakeInitialModel()
    data.get_sd_model = lambda: data.sd_model

    def forge_model_reload():
        if isinstance(data.sd_model, FakeInitialModel):
            data.loads += 1
            sd_models.switch_to(data.make())
        return data.sd_model, False

    sd_models.forge_model_reload = forge_model_reload
    sd_models.apply_token_merging = lambda model, ratio: None
    encoded = sd_models.Model.get_learned_conditioning
    Engine.get_learned_conditioning = encoded
    inner = processing.process_images_inner

    def process_images_inner(p):
        forge_model_reload()
        return inner(p)

    processing.process_images_inner = process_images_inner
    base = processing.StableDiffusionProcessing
    base.hr_cfg = 1.0

    def before_sampling(p, x, noise):
        p.sd_model.forge_objects = p.sd_model.forge_objects_original.shallow_copy()
        p.scripts.process_before_every_sampling(p, x=x, noise=noise, c=p.c, uc=p.uc)

    setup = base.setup_conds

    def setup_conds(p):
        setup(p)
        if (p.hr_cfg if p.is_hr_pass else p.cfg_scale) == 1:
            p.uc = None

    def get_token_merging_ratio(p, for_hr=False):
        return p.token_merging_ratio_hr if for_hr and p.token_merging_ratio_hr else processing.ratio_of(p)

    base.before_sampling, base.setup_conds, base.get_token_merging_ratio = before_sampling, setup_conds, get_token_merging_ratio
    base.image_conditioning = lambda p, x: None


def model(sd_models: Any, seed: int = 0, name: str = "tiny", kind: str = "sd1", predicts: str = "epsilon", **shape: Any) -> Engine:
    """An engine that `switch_to` can make the current one. kind: ``sd1`` | ``sdxl`` | ``flux``, which predicts a velocity."""
    if kind == "flux":
        return Engine(forge_cfg.Transformer(seed), name, kind, models.WIDTH, sd_models.TextModel, "const")
    make = {"sd1": models.forge_unet, "sdxl": models.forge_unet_sdxl}[kind]
    return Engine(make(seed, **shape), name, kind, shape.get("context_dim", models.WIDTH), sd_models.TextModel, predicts)


def uninstall() -> None:
    sys.path.remove(str(FOLDER))
    for name in [name for name in sys.modules if name.split(".")[0] in ("backend", "modules_forge")]:
        del sys.modules[name]
