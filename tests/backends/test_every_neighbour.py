"""Every method beside what people put on the same U-Net: nothing fails that plain does not, and what is said is what was counted."""

import models
import pipelines
import pytest
import torch
from complaints import METHODS, complaints
from diffusers.models.attention_processor import AttnProcessor2_0


def _context(hidden_states, encoder_hidden_states):
    return hidden_states if encoder_hidden_states is None else encoder_hidden_states


class Store:
    """It must be called in every step: it keeps maps."""

    def __init__(self):
        self.calls = 0

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        self.calls += 1
        return AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


class Halves:
    """It tells the halves of a guided batch apart, and fails on one row."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        out = AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        uncond, cond = out.chunk(2)
        return torch.cat([uncond, 0.9 * cond + 0.1 * uncond])


class Shared:
    """Every picture of a half looks at the first one's tokens, too."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        whole = _context(hidden_states, encoder_hidden_states)
        context = torch.cat([torch.cat([half, half[:1].expand_as(half)], 1) for half in whole.chunk(2)])
        return AttnProcessor2_0()(attn, hidden_states, context, attention_mask, temb)


def _processors(part, processor):
    def put(pipe):
        have = pipe.unet.attn_processors
        pipe.unet.set_attn_processor({name: processor() if part in name else one for name, one in have.items()})
        return {}

    return put


def _compiled(pipe):
    pipe.unet.mid_block.compile(backend="eager")
    return {}


def _offloaded(pipe):
    for part in (pipe.unet, pipe.vae):
        pytest.importorskip("accelerate").cpu_offload(part, "cpu")
    return {}


def _switched(pipe):
    """Two adapters, of which the second takes over in mid-run."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    for name in ("first", "second"):
        config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
        pipe.unet.add_adapter(config, name)

    def switch(pipe, index, timestep, tensors):
        # Back at the end, so that every run is the same.
        pipe.unet.set_adapters("second" if index in (1, 2) else "first")
        return tensors

    pipe.unet.set_adapters("first")
    return {"callback_on_step_end": switch}


def _deep_cache(pipe):
    helper = pytest.importorskip("DeepCache").DeepCacheSDHelper(pipe)
    helper.set_params(cache_interval=2, cache_branch_id=0)
    helper.enable()
    return {}


NEIGHBOURS = {
    "a store on cross-attention": _processors("attn2", Store),
    "halves of batches": _processors("attn1", Halves),
    "halves of texts": _processors("attn2", Halves),
    "style sharing": _processors("attn1", Shared),
    "a compiled block": _compiled,
    "offloading": _offloaded,
    "adapters that are switched": _switched,
    "DeepCache": _deep_cache,
}
XL = ("halves of batches", "adapters that are switched")


def beside(neighbour, kind="StableDiffusionPipeline", images=1):
    pipe = models.pipeline(models.diffusers_unet_sdxl() if "XL" in kind else None, kind)
    given = models.prompt(images, pooled="XL" in kind) | {"num_inference_steps": 4, "guidance_scale": 5.0, "output_type": "latent"}
    return pipelines.Built(pipe, given | {"height": 64, "width": 64} | NEIGHBOURS[neighbour](pipe))


@pytest.mark.parametrize("strict", ["1", ""])
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_every_method_beside_others(neighbour, strict, monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", strict)
    built = beside(neighbour)
    for method in METHODS:
        assert complaints(built, method) == [], type(method).__name__


@pytest.mark.parametrize("neighbour", XL)
def test_every_method_beside_others_on_sdxl(neighbour):
    built = beside(neighbour, "StableDiffusionXLPipeline", images=2)
    for method in METHODS:
        assert complaints(built, method) == [], type(method).__name__
