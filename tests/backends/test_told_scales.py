"""By what scale a pipeline combines both texts: what Accel reckons with is what the pipeline's own code does."""

import pathlib
import re
from types import SimpleNamespace

import diffusers
import pytest
import transformers_tiny as tiny

from lib_accel import Forecast, accelerated
from lib_accel.backends.told_texts import ADD_TO_COND, scale_of
from lib_accel.methods import guided_error

# cond + guidance_scale * (cond - uncond) in a loop's code, in which both are called many names.
ADDED_TO_COND = re.compile(r"= (\w+) \+ [\w.]*guidance_scale \* \(\s*\1 - ")
STEPS = 12


def bodies():
    """(name, source) of every pipeline class with a transformer."""
    root = pathlib.Path(diffusers.__file__).parent
    for name, module in tiny.found().items():
        text = root.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text(encoding="utf-8")
        yield name, re.split(rf"^class {name}\b", text, flags=re.MULTILINE)[1].partition("\nclass ")[0]


def test_pipelines_that_add_guidance_to_the_prompt_are_those_whose_code_does():
    told = {name for name, _ in bodies() if name.startswith(ADD_TO_COND)}
    assert told == {name for name, body in bodies() if ADDED_TO_COND.search(body)}


@pytest.mark.parametrize("name", ["ZImagePipeline", "Krea2Pipeline"])
def test_both_texts_weigh_what_they_do_in_the_pipeline(name, monkeypatch):
    """At scale 1 the negative prompt weighs -1 there, and nothing elsewhere."""
    built, why = tiny.build(name)
    if built is None:
        pytest.skip(why)
    seen, plain = set(), guided_error.weights_of

    def weights_of(rows, *given):
        found = plain(rows, *given)
        seen.add(tuple(sorted((row.role, round(weight, 6)) for row, weight in zip(rows, found))))
        return found

    monkeypatch.setattr(guided_error, "weights_of", weights_of)
    with accelerated(built.pipe, Forecast(tolerance=1e-9)):
        built.draw(num_inference_steps=STEPS, guidance_scale=1.0)
    assert seen == {(("cond", 2.0), ("uncond", -1.0))}


def test_a_guider_says_what_it_adds_to():
    """Whatever pipeline it is in; a pipeline with two says which is at work."""
    for original, scale in ((False, 4.0), (True, 5.0)):
        guider = SimpleNamespace(guidance_scale=4.0, use_original_formulation=original)
        assert scale_of({}, SimpleNamespace(guider=guider), "ZImageLoopDenoiser") == scale
        other = SimpleNamespace(guider=SimpleNamespace(guidance_scale=9.0))
        assert scale_of({"guider": guider}, other, "HunyuanImagePipeline") == scale
    assert scale_of({"current_guidance_scale": 0.0}, SimpleNamespace(), "ZImagePipeline") == 1.0
