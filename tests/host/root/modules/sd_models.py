"""Models of the double: a tiny U-Net of the real classes and trivial text and pictures around it."""

import re
import zlib
from types import SimpleNamespace

import torch
from torch import nn

from modules import prompt_parser, script_callbacks, sd_hijack
from modules.prompt_parser import DictWithShape

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
        if isinstance(c_crossattn, dict):
            return self.diffusion_model(x, timesteps=t, context=c_crossattn["crossattn"], y=c_crossattn["vector"])
        return self.diffusion_model(x, t, context=c_crossattn)


class TextModel:
    """Words as tokens, in chunks of three between a begin and an end. Chinese: letters as tokens, the last of a word another one."""

    chunk_length, id_start, id_end, id_pad = WORD_LENGTH - 2, 1, 2, 2

    def __init__(self):
        self.tokenizer, self.spelled = self, {}

    def tokenize(self, texts):
        return [[self._token(part) for word in re.findall(r"\w+|[^\w\s]+", text) for part in self._parts(word)] for text in texts]

    def _parts(self, word):
        parts = re.findall("[\u3041-\u9fff]|[^\u3041-\u9fff]+", word.lower())
        return [*parts[:-1], f"{parts[-1]}</w>"]

    def _token(self, part):
        token = 3 + zlib.crc32(part.removesuffix("</w>" if part.isascii() else "").encode()) % 9999
        # A sign for each byte, as in CLIP's vocabulary.
        self.spelled[token] = part.encode().decode("latin-1")
        return token

    def convert_ids_to_tokens(self, token):
        return self.spelled.get(token)

    def tokenize_line(self, line):
        chunks, current = [], []
        for text, weight in prompt_parser.parse_prompt_attention(line):
            if (text, weight) == ("BREAK", -1):
                chunks, current = [*chunks, current], []
                continue
            for token in self.tokenize([text])[0]:
                if len(current) == self.chunk_length:
                    chunks, current = [*chunks, current], []
                current.append(token)
        chunks += [current] if current or not chunks else []
        made = [[self.id_start, *chunk, *[self.id_end] * (self.chunk_length + 1 - len(chunk))] for chunk in chunks]
        return [SimpleNamespace(tokens=tokens, fixes=[]) for tokens in made], sum(map(len, chunks))


class Model(nn.Module):
    """kind: ``sd1`` | ``sd2`` | ``sdxl`` | ``sd3``. width: of its text. Computes in its U-Net's precision."""

    def __init__(self, unet, name, conditioning_key="crossattn", kind="sd1", width=WIDTH):
        super().__init__()
        self.model = Wrapper(unet, conditioning_key)
        for other in ("sd1", "sd2", "sdxl", "sd3"):
            setattr(self, f"is_{other}", kind == other)
        self.cond_stage_key = "edit" if conditioning_key == "edit" else "txt"
        self.parameterization = "eps"
        self.sd_checkpoint_info = SimpleNamespace(name=name, title=name, filename=f"{name}.safetensors")
        self.applied_token_merged_ratio = 0
        self.lowvram = False
        self.width = width
        # The host's is about 1e-3; as much as it takes to see it in the double's pictures.
        self.encoder_noise = 0.0
        self.cond_stage_model = None if kind == "sd3" else TextModel()

    def apply_model(self, x, t, cond):
        dtype = next((p.dtype for p in self.parameters()), x.dtype)
        text, image = cond["c_crossattn"], cond["c_concat"]
        text = DictWithShape({k: v.to(dtype) for k, v in text.items()}) if isinstance(text, dict) else text.to(dtype)
        return self.model(x.to(dtype), t, image.to(dtype), text).to(x.dtype)

    def get_learned_conditioning(self, texts):
        """For each text [1, tokens, width]; every three words take a chunk of tokens. SDXL's have a vector, too."""
        conds = []
        for text in texts:
            generator = torch.Generator().manual_seed(zlib.crc32(text.encode()))
            chunks = len(TextModel().tokenize_line(text)[0])
            cond = torch.randn(1, WORD_LENGTH * chunks, self.width, generator=generator)
            conds.append(DictWithShape(crossattn=cond, vector=cond[:, 0, :WIDTH]) if self.is_sdxl else cond)
        return conds


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


def switch_to(model, trash=False):
    """Make ``model`` the current one. One that was kept in memory comes back without the callback. trash: give up the old one."""
    old, model_data.sd_model = model_data.sd_model, model
    if trash:
        model_data.loaded_sd_models.remove(old)
        old.to("meta")
    if model not in model_data.loaded_sd_models:
        model_data.loaded_sd_models.append(model)
        script_callbacks.dispatch("model_loaded", model)


def load_into(model, weights, name):
    """Another checkpoint of the same architecture: other weights in the same object, its classes hijacked anew."""
    sd_hijack.undo()
    model.model.diffusion_model.load_state_dict(weights)
    model.sd_checkpoint_info = SimpleNamespace(name=name, title=name, filename=f"{name}.safetensors")
    sd_hijack.apply_optimizations()
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
