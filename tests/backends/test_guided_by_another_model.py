"""Pipelines whose guidance comes from a second model of the same class in every step (Ideogram 4): nothing of one alone is forecast."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from transformers_parts import TOKENS, WIDTH, Vae

from lib_accel import Forecast, accelerated
from lib_accel.backends.loops import other_model

if not hasattr(diffusers, "Ideogram4Pipeline"):
    pytest.skip("diffusers has no Ideogram4Pipeline", allow_module_level=True)
STEPS, TEXT, IMAGE = 14, 3, 2


@pytest.fixture(scope="module")
def ideogram():
    """Its pipeline, called with as many steps and a guidance scale; what texts are encoded to is made up."""
    torch.manual_seed(0)
    small = {"in_channels": 8, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
    small |= {"adaln_dim": 16, "llm_features_dim": WIDTH, "mrope_section": (4, 2, 2)}
    models = [diffusers.Ideogram4Transformer2DModel(**small).eval() for _ in range(2)]
    pipe = diffusers.Ideogram4Pipeline(diffusers.FlowMatchEulerDiscreteScheduler(), Vae(), None, None, *models)
    pipe.set_progress_bar_config(disable=True)

    def encode_prompt(prompt, grid_h, grid_w, max_sequence_length, device):
        tokens = max_sequence_length + grid_h * grid_w
        indicator = torch.full((1, tokens), IMAGE)
        indicator[:, :max_sequence_length] = TEXT
        places = torch.arange(tokens).view(1, -1, 1).repeat(1, 1, 3)
        return torch.randn(1, tokens, WIDTH, generator=torch.Generator().manual_seed(1)), places, torch.zeros(1, tokens), indicator

    pipe.encode_prompt = encode_prompt
    return pipe


def drawn(pipe):
    given = {"height": 64, "width": 64, "num_inference_steps": STEPS, "guidance_scale": 5.0, "guidance_schedule": None}
    generator = torch.Generator().manual_seed(3)
    return pipe("a", **given, max_sequence_length=TOKENS, output_type="latent", generator=generator)[0]


@pytest.mark.parametrize("every", [0, 2])
def test_all_calls_run_and_the_report_names_the_other_model(ideogram, every):
    """Half of a guided prediction, continued, would be as many times as far off as the guidance scale says."""
    plain = drawn(ideogram)
    with accelerated(ideogram, Forecast(every=every, tolerance=0 if every else 1000.0)) as accelerator:
        out = drawn(ideogram)
    report = accelerator.report().as_dict()
    (reason,) = report["methods"][0]["reasons"]
    assert reason["code"] == "no_forecast" and reason["why"]["code"] == "other_model"
    assert "unconditional_transformer" in reason["text"]
    assert torch.equal(out, plain) and (report["unet_calls"], report["calls_served"]) == (STEPS, 0)


def test_models_of_other_classes_and_those_that_draw_in_turn_say_nothing(ideogram):
    first = ideogram.transformer
    second = ideogram.unconditional_transformer
    assert other_model(SimpleNamespace(transformer=first, transformer_2=second, part=torch.nn.Linear(1, 1), again=first)) is None
    assert other_model(SimpleNamespace(transformer=first, transformer_2=None, third=second)) is not None
    assert other_model(SimpleNamespace(unet=first, other=first)) is None and other_model(None) is None
