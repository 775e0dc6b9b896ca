"""Modular pipelines with a transformer: each prediction of a guider is a call; a picture is served in all calls of a step, or in none."""

import diffusers
import pytest
import torch
import transformers_tiny as tiny

from lib_accel import Forecast, accelerated
from lib_accel.backends import known

guiders = pytest.importorskip("diffusers.guiders")
blocks = pytest.importorskip("diffusers.modular_pipelines.qwenimage.modular_blocks_qwenimage")
STEPS = 14
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)
# A hook that nobody knows.
STRANGE = {"__name__": "weaker_model"}
exec("def hook(module, args):\n    return None", STRANGE)


class Weaker(guiders.ClassifierFreeGuidance):
    """As AutoGuidance: something is on the model's layers in the call for one of the texts. second: in which."""

    second = True

    def prepare_models(self, denoiser):
        super().prepare_models(denoiser)
        block = denoiser.transformer_blocks[0]
        self.handle = block.register_forward_pre_hook(STRANGE["hook"]) if (self._count_prepared == 2) is self.second else None

    def cleanup_models(self, denoiser):
        if self.handle is not None:
            self.handle.remove()


class WeakerFirst(Weaker):
    second = False


class Third(guiders.ClassifierFreeGuidance):
    """As guiders that skip layers: from the middle on a third prediction is asked for."""

    def prepare_inputs(self, data):
        found = super().prepare_inputs(data)
        if self._step >= STEPS // 2:
            found.append(self._prepare_batch(data, 0, "pred_cond_skip"))
        return found

    @property
    def num_conditions(self):
        return super().num_conditions + (self._step >= STEPS // 2)

    def forward(self, pred_cond, pred_uncond=None, pred_cond_skip=None):
        return super().forward(pred_cond, pred_uncond)


def steps_of_calls(guider, monkeypatch):
    """(of each step: for each of its calls whether it ran, the report, the plain latents, those with a forecast)."""
    monkeypatch.setattr(known, "TORCH_HOOKS", known.TORCH_HOOKS | {__name__})
    pipe = blocks.QwenImageCoreDenoiseStep().init_pipeline()
    model = tiny.tiny(diffusers.QwenImageTransformer2DModel)
    pipe.update_components(transformer=model, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), guider=guider)
    pipe.set_progress_bar_config(disable=True)
    text, whole = torch.randn(2, 1, tiny.TOKENS, tiny.WIDTH), torch.ones(1, tiny.TOKENS, dtype=torch.long)
    given = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1], "prompt_embeds_mask": whole, "negative_prompt_embeds_mask": whole}
    given |= {"height": 64, "width": 64, "num_inference_steps": STEPS, "output": "latents"}

    def draw():
        return pipe(**given, generator=torch.Generator().manual_seed(3))

    plain, seen, ran = draw(), [[] for _ in range(STEPS)], []
    handles = [model.img_in.register_forward_hook(lambda *_: ran.append(True))]
    handles.append(model.register_forward_hook(lambda *_: (seen[guider._step].append(bool(ran)), ran.clear())[0]))
    with accelerated(pipe, FREE) as accelerator:
        out = draw()
    for handle in handles:
        handle.remove()
    return seen, accelerator.report().as_dict(), plain, out


@pytest.mark.parametrize("kind", [Weaker, WeakerFirst])
def test_where_one_text_must_run_so_does_the_other(kind, monkeypatch):
    """Half of a picture, guided by calls of two steps, is what nobody measures. That the second must run is seen once it comes."""
    seen, report, plain, out = steps_of_calls(kind(), monkeypatch)
    split = [step for step, calls in enumerate(seen) if len(set(calls)) > 1]
    assert split == ([5] if kind is Weaker else []) and report["calls_served"] == len(split)
    assert torch.equal(out, plain) is not bool(split)
    (reason,) = report["methods"][0]["reasons"]
    assert reason["code"] == "calls_run" and reason["why"]["home"] == "weaker_model" and "every call" not in reason["text"]


def test_guidance_that_begins_in_mid_pass_begins_with_calls_that_run(monkeypatch):
    seen, report, _, _ = steps_of_calls(guiders.ClassifierFreeGuidance(start=0.5), monkeypatch)
    assert [len(calls) for calls in seen] == [1] * (STEPS // 2) + [2] * (STEPS // 2)
    assert all(len(set(calls)) == 1 for calls in seen)
    (served,) = (one["steps"] for one in report["methods"][0]["served"])
    assert served == [step for step, calls in enumerate(seen) if not any(calls)] and served[0] == 5 and served[-1] > STEPS // 2


def test_no_text_is_served_in_a_step_with_a_third_prediction(monkeypatch):
    seen, report, _, _ = steps_of_calls(Third(), monkeypatch)
    assert [step for step, calls in enumerate(seen) if not all(calls)] == [5] == report["methods"][0]["served"][0]["steps"]
