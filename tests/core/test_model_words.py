"""What is told of a model names it: sentences are written of a U-Net."""

import models
import pytest
import transformers_tiny as tiny

from lib_accel import Forecast, TokenMerging, accelerated
from lib_accel.core.model_words import TRANSFORMER, UNET, told_of
from lib_accel.core.reasons import Reason, as_data


def test_sentences_and_data_name_the_model():
    reason = Reason.of("why", "the U-Net is {what}", what=Reason.of("because", "a U-Net"))
    told = told_of(TRANSFORMER, {"reasons": [reason], "counts": {"the U-Net": 3}, "numbers": (1, None)})
    assert told["reasons"] == ["the transformer is a transformer"] and told["counts"] == {"the transformer": 3}
    assert as_data(told["reasons"][0])["what"] == {"code": "because", "text": "a transformer"} and told["numbers"] == (1, None)
    assert told_of(UNET, reason) is reason


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusion3Pipeline"])
def test_a_report_of_a_transformer_speaks_of_no_unet(name):
    built, why = tiny.build(name)
    assert built is not None, why
    with accelerated(built.pipe, Forecast(), TokenMerging()) as accelerator:
        assert "no transformer call was seen" in str(accelerator.report())
        built.draw()
        built.model(**_inputs(built))
    data = accelerator.report().as_dict()
    assert data["noun"] == "transformer" and " transformer calls" in str(accelerator.report()) and "U-Net" not in str(data)


def _inputs(built):
    """Of a call by hand, of which nobody tells anything."""
    seen = []
    handle = built.model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    built.draw(num_inference_steps=1)
    handle.remove()
    return seen[0]


def test_a_report_of_a_unet_speaks_of_one():
    unet = models.UNETS["diffusers"]()
    with accelerated(unet, Forecast()) as accelerator:
        models.one_pass(unet)
    assert accelerator.report().as_dict()["noun"] == "U-Net" and "2 U-Net calls in" in str(accelerator.report())
