"""Models of the double: a tiny U-Net of the real `ldm` classes and trivial text and pictures around it."""

import zlib
from types import SimpleNamespace

import torch
from torch import nn

from modules import script_callbacks

WORD_LENGTH, WIDTH = 5, 16


class Wrapper(nn.Module):
    """The host's `sd_model.model`."""

    def __init__(self, unet, conditioning_key):
        super().__init__()
        self.diffusion_model = unet
        self.conditioning_key = conditioning_key

    def forward(self, x, t, c_concat, c_crossattn):
        if self.conditioning_key == "hybrid":
            x = torch.cat([x, c_concat], 1)
        return self.diffusion_model(x, t, context=c_crossattn)


class Model(nn.Module):
    def __init__(self, unet, name, conditioning_key="crossattn"):
        super().__init__()
        self.model = Wrapper(unet, conditioning_key)
        self.is_sd1, self.is_sd2, self.is_sdxl, self.is_sd3 = True, False, False, False
        self.cond_stage_key = "edit" if conditioning_key == "edit" else "txt"
        self.parameterization = "eps"
        self.sd_checkpoint_info = SimpleNamespace(name=name, title=name)
        self.applied_token_merged_ratio = 0
        self.lowvram = False

    def apply_model(self, x, t, cond):
        return self.model(x, t, cond["c_concat"], cond["c_crossattn"])

    def get_learned_conditioning(self, texts):
        """[texts, tokens, WIDTH]; more than three words take twice the tokens."""
        generator = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        lengths = [WORD_LENGTH * (1 + (len(text.split()) > 3)) for text in texts]
        return [torch.randn(n, WIDTH, generator=g) for n, g in zip(lengths, generator)]


class ModelData:
    def __init__(self):
        self.sd_model = None
        self.loaded_sd_models = []
        self.loads = 0
        self.make = None

    def get_sd_model(self):
        if self.sd_model is None:
            self.loads += 1
            switch_to(self.make())
        return self.sd_model


model_data = ModelData()


def switch_to(model, tell=True):
    """Make ``model`` the current one; a model that was kept in memory comes back without the callback."""
    model_data.sd_model = model
    if model not in model_data.loaded_sd_models:
        model_data.loaded_sd_models.append(model)
    if tell:
        script_callbacks.dispatch("model_loaded", model)


def apply_token_merging(model, ratio):
    """The built-in token merging, by the package that the host uses for it."""
    import tomesd

    if model.applied_token_merged_ratio == ratio:
        return
    if model.applied_token_merged_ratio > 0:
        tomesd.remove_patch(model)
    if ratio > 0:
        tomesd.apply_patch(model, ratio=ratio, use_rand=False, merge_attn=True)
    model.applied_token_merged_ratio = ratio
