"""Methods that are there in case, as DeepCache and guidance skip in presets: without a trace, and without a word, where others act."""

from dataclasses import dataclass
from types import SimpleNamespace

import models
import pytest
import torch
from guided import codes
from sampling import LEVELS, sample
from serving import res_blocks_run

from lib_accel import DeepCache, Forecast, GuidanceSkip, accelerated
from lib_accel.core.method import TOKENS, Declaration, Method
from lib_accel.core.reasons import Reason
from lib_accel.cost.preview import ran_pass
from lib_accel.engine.contract import Runner
from lib_accel.methods.registry import of_known_rows
from lib_accel.settings.job import resolve
from lib_accel.settings.presets import preset

both = pytest.mark.parametrize("kind", models.BOTH)
CACHE = DeepCache(every=3, warm_up=0.2, only_where_better=True)
SKIP = GuidanceSkip(when="after", after=0.3, reuse=True, every=7, only_where_better=True)
SHORT = LEVELS[-7:]


def told_of(accelerator, method="DeepCache"):
    return next(told for told in accelerator.report().as_dict()["methods"] if told["method"] == method)


@both
@pytest.mark.parametrize("name", ["quality", "draft"])
@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Euler a"])
@pytest.mark.parametrize("sigmas", [SHORT, LEVELS], ids=["short", "long"])
def test_pictures_are_the_same_without_deep_cache(kind, name, sampler, sigmas):
    """To the bit; nor does the line tell of it, also where a pass is too short for forecasts."""
    methods = [method for method in preset(name) if method.declaration.acts_on != TOKENS]
    made, ran = [], []
    for given in (methods, [method for method in methods if not isinstance(method, DeepCache)]):
        unet = models.UNETS[kind]()
        ran.append(res_blocks_run(unet))
        with accelerated(unet, *given) as accelerator:
            made.append(sample(unet, accelerator, sampler, sigmas))
        if sampler != "Euler a":
            assert "DeepCache" not in str(accelerator.report())
    assert torch.equal(made[0].latents, made[1].latents) and ran[0] == ran[1]
    cache = next(method for method in methods if isinstance(method, DeepCache))
    # The look ahead agrees.
    assert cache.stands_aside(methods, len(sigmas) - 1, sampler)


@pytest.mark.parametrize("turned", [False, True])
def test_prompts_that_settle_late(turned):
    """What is left then is too short for forecasts, and for what stands in for them. In which order methods are given does not matter."""
    unet, methods = models.ldm_unet(), (Forecast(level="fast"), CACHE, SKIP)
    with accelerated(unet, *(reversed(methods) if turned else methods)) as accelerator:
        sample(unet, accelerator, "Euler", settled=8)
    assert codes(told_of(accelerator)) == ["forecast_instead"] and "DeepCache" not in str(accelerator.report())


@pytest.mark.parametrize("settled", [4, 9, 40])
def test_guidance_is_left_out_in_a_whole_pass_or_in_none_of_it(settled):
    """Before forecasts begin it is known whether there will be any."""
    unet, seen = models.ldm_unet(), []
    with accelerated(unet, SKIP, Forecast(level="fast")) as accelerator:
        runner = accelerator.running(Forecast)
        decide = accelerator.running(GuidanceSkip)._decide

        def deciding(moment):
            seen.append(runner.goes_with_kept_guidance(moment))
            return decide(moment)

        accelerator.running(GuidanceSkip)._decide = deciding
        sample(unet, accelerator, "Euler", settled=settled)
    assert len(seen) == 12 and len(set(seen)) == 1 and (seen[0] is None) is (settled > 4)


def test_a_unet_whose_stages_nobody_knows(monkeypatch):
    """As in reForge. Where it stands aside nobody misses them."""
    unet = models.ldm_unet()
    monkeypatch.setattr("lib_accel.backends.ldm.LDMBackend.find_stages", lambda self, unet: ())
    for sampler, told in (("DPM++ 2M", ["forecast_instead"]), ("Heun", ["stages_unknown"])):
        with accelerated(unet, Forecast(), CACHE) as accelerator:
            sample(unet, accelerator, sampler)
        assert codes(told_of(accelerator)) == told and ("DeepCache" in str(accelerator.report())) is (sampler == "Heun")


@dataclass(frozen=True)
class InFull(Method):
    declaration = Declaration(acts_on=TOKENS)
    window = (0.0, 1.0)

    def runner(self):
        return InFullRunner(self)


class InFullRunner(Runner):
    def needs_full(self, moment):
        return "as this says"


def test_calls_that_must_run_in_full_are_told_of_once():
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(), CACHE, InFull()) as accelerator:
        sample(unet, accelerator)
    assert codes(told_of(accelerator)) == ["forecast_instead"] and str(accelerator.report()).count("as this says") == 1


@pytest.mark.parametrize("alone", [False, True])
def test_what_switches_all_of_them_off_is_told_of_once(alone):
    """As the WebUI's Spectrum does. Who asked for DeepCache itself reads what became of it."""
    unet, cache = models.ldm_unet(), DeepCache() if alone else CACHE
    with accelerated(unet, SKIP, Forecast(), cache) as accelerator:
        accelerator.switch_off(of_known_rows(), Reason.of("why", "another one forecasts"))
        sample(unet, accelerator)
    assert str(accelerator.report()).count("another one forecasts") == 1 + alone
    assert {tuple(codes(told_of(accelerator, name))) for name in ("Forecast", "DeepCache", "GuidanceSkip")} == {("why",)}


def test_the_strip_of_what_ran_shows_it_where_it_acted_against_expectation():
    """Forecast could not act with this sampler after all: nobody told the noise levels."""
    unet = models.ldm_unet()
    with accelerated(unet, Forecast(), CACHE) as accelerator:
        sample(unet, SimpleNamespace(step=lambda *args, sigmas, **told: accelerator.step(*args, **told)))
    report, settings = accelerator.report(), resolve({"enabled": True, "preset": "quality"}, "sd1")
    shallow = told_of(accelerator)["shallow_in"][0]["steps"]
    (shown,) = ran_pass(report.as_dict(), report.rows, settings, "first pass", "sd1", (512, 512), "Euler")
    assert shallow and [step for step, kinds in enumerate(shown.steps) if "shallow" in kinds] == shallow and shown.work < shown.plain
