"""Pipelines that draw with two transformers in turn (Wan 2.2): both are served, neither from what the other one returned."""

import copy

import pytest
import torch
import transformers_tiny as tiny
from traces import differences, fingerprint

from lib_accel import Forecast, GuidanceSkip, accelerated, is_patched
from lib_accel.core.sites import SECOND

STEPS = 16
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)
PIPELINES = ("WanPipeline", "WanVACEPipeline")


def built(name):
    made, why = tiny.build(name)
    assert made is not None, why
    pipe = made.pipe
    second = copy.deepcopy(pipe.transformer)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.1)
    pipe.register_modules(transformer_2=second)
    pipe.register_to_config(boundary_ratio=0.5)
    made.given["num_inference_steps"] = STEPS
    return made


@pytest.fixture(scope="module")
def wan():
    return built("WanPipeline")


class Watch:
    """Counts calls that really run, by a layer of each model; and the steps in which they were asked."""

    def __init__(self, pipe):
        self.asked, self.ran, self._handles = {}, {}, []
        for name in ("transformer", SECOND):
            model = getattr(pipe, name)
            self.asked[name], self.ran[name] = 0, 0
            self._handles.append(model.register_forward_pre_hook(lambda *_, name=name: self._add(self.asked, name)))
            self._handles.append(model.patch_embedding.register_forward_hook(lambda *_, name=name: self._add(self.ran, name)))

    def _add(self, counts, name):
        counts[name] += 1

    def stop(self):
        for handle in self._handles:
            handle.remove()


def drawn(made, *methods, **more):
    """Latents, the report, and what was counted."""
    with accelerated(made.pipe, *methods) as accelerator:
        watch = Watch(made.pipe)
        out = made.draw(**more)
        watch.stop()
    return out, accelerator.report().as_dict(), watch


def steps_of(report):
    return [one["steps"] for one in report["methods"][0]["served"]]


@pytest.mark.parametrize("name", PIPELINES)
def test_calls_of_both_are_served_and_told(name):
    made = built(name)
    models = [made.model, getattr(made.pipe, SECOND)]
    before, plain = [fingerprint(model) for model in models], made.draw()
    out, report, watch = drawn(made, FREE)
    asked, ran = sum(watch.asked.values()), sum(watch.ran.values())
    assert all(0 < watch.ran[name] < watch.asked[name] for name in watch.ran)
    assert (report["unet_calls"], report["calls_run"], report["calls_served"]) == (asked, ran, asked - ran)
    assert report["steps"] == STEPS and report["passes"] == 1 and not report["methods"][0]["failed"]
    assert out.isfinite().all() and not torch.equal(out, plain)
    assert torch.equal(made.draw(), plain) and [differences(*pair) for pair in zip(before, map(fingerprint, models))] == [set(), set()]


def test_nothing_is_carried_over_the_switch(wan):
    """The second warms up anew: what is served after it lies on lines through its own calls."""
    _, report, watch = drawn(wan, FREE)
    each = sum(watch.asked.values()) // STEPS
    switch = watch.asked["transformer"] // each
    (steps,) = steps_of(report)
    first, second = [step for step in steps if step < switch], [step for step in steps if step >= switch]
    assert 0 < switch < STEPS and min(first) == 5 and min(second) == switch + 5
    outputs = {}

    def keep(place):
        return lambda module, args, out: outputs.setdefault(place, []).append(out[0].clone())

    with accelerated(wan.pipe, FREE):
        handles = [getattr(wan.pipe, name).register_forward_hook(keep(name)) for name in watch.asked]
        wan.draw()
        for handle in handles:
            handle.remove()
    noises = wan.pipe.scheduler.sigmas.double().tolist()
    now, newest, older = (((1 / (1 - noises[step])) ** 2 - 1) / 2 for step in (min(second), min(second) - 1, min(second) - 2))
    at = (min(second) - switch) * each
    served, a, b = (outputs[SECOND][at - back * each] for back in (0, 1, 2))
    torch.testing.assert_close(served, a + (now - newest) / (newest - older) * (a - b), rtol=1e-3, atol=1e-3)


def test_a_second_picture_begins_at_the_first(wan):
    with accelerated(wan.pipe, FREE) as accelerator:
        one = wan.draw()
        two = wan.draw()
    report = accelerator.report().as_dict()
    assert torch.equal(one, two) and report["passes"] == 2 and len(steps_of(report)) == 2 and len(set(map(tuple, steps_of(report)))) == 1
    assert not report["stood_down"]


def test_each_has_its_own_guidance(wan):
    """`guidance_scale_2` is the second's, and told as no change of guidance in mid-pass."""
    _, report, _ = drawn(wan, FREE, guidance_scale=5.0, guidance_scale_2=3.0)
    assert not report["stood_down"] and steps_of(report)[0]


def test_what_does_nothing_changes_nothing(wan):
    plain = wan.draw()
    out, report, _ = drawn(wan, GuidanceSkip(threshold=1.0))
    assert torch.equal(out, plain) and report["methods"][0]["reasons"]


def test_one_accelerator_for_both(wan):
    """Either may be asked, another one on either replaces it, and copies are clean."""
    first, second = wan.model, getattr(wan.pipe, SECOND)
    accelerator = accelerated(wan.pipe, FREE)
    assert is_patched(wan.pipe) and is_patched(first) and is_patched(second) and not is_patched(copy.deepcopy(second))
    with accelerated(second, FREE):
        assert not is_patched(first) and "forward" not in vars(first)
    assert not is_patched(second) and accelerator.report().as_dict()["stood_down"]


def test_after_an_error_in_the_second_both_are_as_they_were(wan):
    models = [wan.model, getattr(wan.pipe, SECOND)]
    plain, before = wan.draw(), [fingerprint(model) for model in models]

    def fail(*_):
        raise RuntimeError("planted")

    with accelerated(wan.pipe, FREE), pytest.raises(RuntimeError, match="planted"):
        handle = models[1].patch_embedding.register_forward_pre_hook(fail)
        try:
            wan.draw()
        finally:
            handle.remove()
    assert [differences(*pair) for pair in zip(before, map(fingerprint, models))] == [set(), set()]
    assert torch.equal(wan.draw(), plain)


def test_the_second_alone(wan):
    """Pipelines may be loaded without the model for high noise."""
    pipe = wan.pipe
    first = pipe.transformer
    pipe.register_modules(transformer=None)
    try:
        with accelerated(pipe, FREE):
            assert is_patched(getattr(pipe, SECOND)) and not is_patched(first)
    finally:
        pipe.register_modules(transformer=first)
