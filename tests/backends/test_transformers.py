"""Models of which only whole calls are served: few steps, caches of diffusers' own, schedulers, models by hand, two calls in a step."""

import inspect

import diffusers
import guided
import pytest
import torch
import transformers_tiny as tiny
from transformers_parts import Vae

from lib_accel import Forecast, GuidanceSkip, Row, TokenMerging, accelerated, apply_patch
from lib_accel.backends.noise_levels import levels_of
from lib_accel.backends.transformer import _others_at_work
from lib_accel.core.sites import UnsupportedModelError

hooks = pytest.importorskip("diffusers.hooks")
STEPS = 11
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)
SERVED = [5, 7]


@pytest.fixture(scope="module")
def flux():
    built, why = tiny.build("FluxPipeline")
    assert built is not None, why
    return built


@pytest.fixture(scope="module")
def sd3():
    built, why = tiny.build("StableDiffusion3Pipeline")
    assert built is not None, why
    return built


@pytest.fixture
def scheduler(flux):
    """Sets the scheduler of ``flux`` for one test."""
    before = flux.pipe.scheduler

    def use(made):
        flux.pipe.scheduler = made

    yield use
    flux.pipe.scheduler = before


def drawn(built, *methods, steps=STEPS, **more):
    with accelerated(built.pipe, *methods) as accelerator:
        out = built.draw(num_inference_steps=steps, **more)
    return out, accelerator.report().as_dict()


def steps_of(report):
    return [one["steps"] for one in report["methods"][0]["served"]]


def test_few_steps_run_in_full_unless_asked_for(flux):
    plain = flux.draw(num_inference_steps=8)
    out, report = drawn(flux, Forecast(), steps=8)
    assert torch.equal(out, plain) and guided.codes(report["methods"][0]) == ["no_forecast: few_step_model"]
    _, report = drawn(flux, FREE, steps=8)
    assert steps_of(report) == [[5]]


# As FluxPipeline, which tells a shift, takes it.
SHIFTED = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}
FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", **SHIFTED}
SCHEDULERS = {
    "shift": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), SERVED),
    "dynamic": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), SERVED),
    "karras": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), SERVED),
    "unipc": (lambda: diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"), SERVED),
    "2m": (lambda: diffusers.DPMSolverMultistepScheduler(**FLOW), SERVED),
    "noisy": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "no_forecast: no_better"),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_flow_matching(flux, scheduler, name):
    make, expected = SCHEDULERS[name]
    scheduler(make())
    given = {} if "FlowMatchEuler" in type(flux.pipe.scheduler).__name__ else {"sigmas": None}
    try:
        plain = flux.draw(num_inference_steps=STEPS, **given)
    except ValueError as error:
        pytest.skip(f"FluxPipeline does not take it: {error}")
    out, report = drawn(flux, FREE, **given)
    if isinstance(expected, str):
        assert torch.equal(out, plain) and guided.codes(report["methods"][0]) == [expected]
    else:
        assert steps_of(report) == [expected] and not torch.equal(out, plain) and out.isfinite().all()


def test_heun_on_flow_matching_runs_in_full(sd3):
    """Of two evaluations a step; FluxPipeline, which brings its own noise levels, does not take it."""
    before, sd3.pipe.scheduler = sd3.pipe.scheduler, diffusers.FlowMatchHeunDiscreteScheduler()
    try:
        plain = sd3.draw(num_inference_steps=STEPS)
        out, report = drawn(sd3, FREE)
    finally:
        sd3.pipe.scheduler = before
    assert torch.equal(out, plain) and guided.codes(report["methods"][0]) == ["no_forecast: evaluations"]
    assert (report["steps"], report["unet_calls"], report["calls_served"]) == (STEPS, 2 * STEPS - 1, 0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_of_flow_matching_are_noise_by_signal(shift):
    made = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    made.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    noises = [shift * s / (1 + (shift - 1) * s) for s in (1.0, 0.75, 0.5, 0.25)]
    assert levels_of(made)[0] == float("inf") and levels_of(made)[-1] == 0
    assert list(levels_of(made)[1:4]) == pytest.approx([s / (1 - s) for s in noises[1:]], rel=1e-5)


CACHES = {
    "FirstBlockCache": lambda: hooks.FirstBlockCacheConfig(threshold=0.2),
    "TaylorSeer": lambda: hooks.TaylorSeerCacheConfig(cache_interval=2),
    "MagCache": lambda: hooks.MagCacheConfig(num_inference_steps=STEPS, mag_ratios=torch.ones(STEPS)),
    "PyramidAttentionBroadcast": lambda: hooks.PyramidAttentionBroadcastConfig(spatial_attention_block_skip_range=2),
    "FasterCache": lambda: hooks.FasterCacheConfig(spatial_attention_block_skip_range=2, is_guidance_distilled=True),
}


@pytest.mark.parametrize("cache", CACHES)
def test_a_cache_of_diffusers_acts_alone_and_the_report_names_it(flux, cache):
    model = flux.model
    config = CACHES[cache]()
    if hasattr(config, "current_timestep_callback"):
        config.current_timestep_callback = lambda: 500
    model.enable_cache(config)
    named = {reason.values.get("cache") for reason in _others_at_work(model)}
    try:
        plain = flux.draw(num_inference_steps=STEPS)
        model._reset_stateful_cache()
    except Exception as error:
        model.disable_cache()
        assert cache in named
        pytest.skip(f"it does not draw on this model: {type(error).__name__}: {error}")
    try:
        out, report = drawn(flux, FREE)
    finally:
        model.disable_cache()
    (reason,) = report["methods"][0]["reasons"]
    assert reason["code"] == "calls_run" and reason["why"]["code"] == "other_cache" and reason["why"]["cache"] == cache
    assert torch.equal(out, plain) and not report["calls_served"]
    assert steps_of(drawn(flux, FREE)[1]) == [SERVED], "it acts again when the cache is gone"


def test_a_forward_that_others_put_on_a_block_runs_in_every_call(flux):
    block = flux.model.transformer_blocks[0]
    own = block.forward
    plain = flux.draw(num_inference_steps=STEPS)
    block.forward = lambda *args, **kwargs: own(*args, **kwargs)
    try:
        out, report = drawn(flux, FREE)
    finally:
        del block.forward
    (reason,) = report["methods"][0]["reasons"]
    assert reason["code"] == "calls_run" and reason["why"]["code"] == "forward" and torch.equal(out, plain)


def test_two_calls_in_a_step_have_histories_of_their_own(flux):
    """True CFG: each text is continued from its own predictions; pictures of a batch are decided one by one."""
    negative = {
        "negative_prompt_embeds": torch.randn(1, tiny.TOKENS, tiny.WIDTH),
        "negative_pooled_prompt_embeds": torch.zeros(1, tiny.WIDTH),
    }
    out, report = drawn(flux, FREE, true_cfg_scale=3.0, num_images_per_prompt=2, **negative)
    assert steps_of(report) == [SERVED] * 2 and (report["unet_calls"], report["calls_served"]) == (2 * STEPS, 4)
    plain, _ = drawn(flux, Forecast(tolerance=1e-9), true_cfg_scale=3.0, num_images_per_prompt=2, **negative)
    assert out.shape == plain.shape and not torch.equal(out, plain)


def test_warm_up_goes_by_noise_over_signal(flux):
    """FlowMatchEuler's levels of 11 steps: s = 1, .909 ... .0909; sigma = 10, 4.5, 2.67, 1.75, 1.2, .83, ..."""
    _, report = drawn(flux, Forecast(tolerance=1000.0, largest_gap=1, last=2, warm_sigma=0.9))
    (steps,) = steps_of(report)
    sigmas = levels_of(flux.pipe.scheduler)
    assert steps and steps[0] == max(5, sum(sigma > 0.9 for sigma in sigmas[:STEPS]))


def test_guidance_is_skipped_where_both_texts_come_in_one_call(sd3):
    out, report = drawn(sd3, GuidanceSkip(when="after", after=0.5))
    (told,) = report["methods"]
    assert told["unguided_steps"] == 5 and report["rows_run"] == 2 * STEPS - 5 and out.isfinite().all()


def test_what_needs_layers_names_the_model(flux):
    before = flux.model.__dict__.get("forward")
    plain = flux.draw(num_inference_steps=STEPS)
    out, report = drawn(flux, TokenMerging())
    (reason,) = report["methods"][0]["reasons"]
    assert (reason["code"], reason["model"]) == ("whole_calls_only", "FluxTransformer2DModel") and torch.equal(out, plain)
    with pytest.raises(UnsupportedModelError, match="FluxTransformer2DModel"):
        apply_patch(flux.pipe)
    assert flux.model.__dict__.get("forward") is before and not flux.model._forward_pre_hooks


def test_a_bare_transformer_by_what_is_told(sd3):
    """Videos have five dimensions and packed latents three; here pictures, by hand."""
    model, sigmas = sd3.model, levels_of(sd3.pipe.scheduler)
    sd3.pipe.scheduler.set_timesteps(STEPS)
    sigmas = levels_of(sd3.pipe.scheduler)
    x, text = torch.randn(1, 16, 8, 8), torch.randn(1, tiny.TOKENS, tiny.WIDTH)
    with torch.no_grad(), accelerated(model, FREE) as accelerator:
        for index in range(STEPS):
            accelerator.step(index, STEPS, [Row("cond")], guidance=1.0, sampler="Euler", sigmas=sigmas)
            out = model(x, encoder_hidden_states=text, pooled_projections=torch.zeros(1, tiny.WIDTH), timestep=torch.tensor([500.0])).sample
    assert steps_of(accelerator.report().as_dict()) == [SERVED] and out.shape == x.shape


def test_a_model_tells_what_it_takes_as_before(flux):
    """Pipelines filter what they give a model by its forward's signature."""
    plain = inspect.signature(flux.model.forward)
    with accelerated(flux.pipe, FREE):
        assert inspect.signature(flux.model.forward) == plain


@pytest.mark.parametrize("guider", ["ClassifierFreeGuidance", "AdaptiveProjectedGuidance"])
def test_modular_pipelines_with_guiders(guider):
    """A guider asks for each prediction in a call of its own and says which it is."""
    blocks = pytest.importorskip("diffusers.modular_pipelines.qwenimage.modular_blocks_qwenimage")
    pipe = blocks.QwenImageCoreDenoiseStep().init_pipeline()
    model = tiny.tiny(diffusers.QwenImageTransformer2DModel)
    pipe.update_components(transformer=model, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), guider=getattr(diffusers, guider)())
    pipe.set_progress_bar_config(disable=True)
    text, whole = torch.randn(2, 1, tiny.TOKENS, tiny.WIDTH), torch.ones(1, tiny.TOKENS, dtype=torch.long)
    given = {"prompt_embeds": text[0], "negative_prompt_embeds": text[1], "prompt_embeds_mask": whole, "negative_prompt_embeds_mask": whole}
    given |= {"height": 64, "width": 64, "num_inference_steps": STEPS, "output": "latents"}

    def draw():
        return pipe(**given, generator=torch.Generator().manual_seed(3))

    plain = draw()
    with accelerated(pipe, FREE) as accelerator:
        out = draw()
    report = accelerator.report().as_dict()
    assert steps_of(report) == [SERVED] and (report["unet_calls"], report["calls_served"]) == (2 * STEPS, 4)
    assert torch.equal(draw(), plain) and not torch.equal(out, plain) and out.isfinite().all()


def test_frames_at_different_timesteps_are_not_forecast():
    built, why = tiny.build("SkyReelsV2DiffusionForcingPipeline")
    if built is None:
        pytest.skip(why)
    frame_by_frame = {"ar_step": 2, "causal_block_size": 1, "num_frames": 21}
    plain = built.draw(**frame_by_frame)
    out, report = drawn(built, FREE, steps=tiny.STEPS, **frame_by_frame)
    assert report["calls_run"] == report["unet_calls"] > 2 * tiny.STEPS and torch.equal(out, plain)
    assert steps_of(drawn(built, FREE, steps=tiny.STEPS)[1]) == [[5]], "all frames at one timestep"


def test_rows_of_several_pictures_and_texts_each():
    """Z-Image's omni pipeline gives each row as a list: pictures that are looked at and latents, and parts of a text."""
    if not hasattr(diffusers, "ZImageOmniPipeline"):
        pytest.skip("diffusers has no ZImageOmniPipeline")
    text, negative = torch.randn(2, tiny.TOKENS, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    model = tiny.tiny(diffusers.ZImageTransformer2DModel)
    pipe = diffusers.ZImageOmniPipeline(diffusers.FlowMatchEulerDiscreteScheduler(), Vae(), None, None, model, None, None)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 64, "width": 64, "output_type": "latent"}
    built = tiny.Built(pipe, {"prompt_embeds": [[text]], "negative_prompt_embeds": [[negative]], **size})
    plain = built.draw(num_inference_steps=STEPS)
    out, report = drawn(built, FREE)
    assert steps_of(report) == [SERVED] and out.isfinite().all() and not torch.equal(out, plain)
    assert torch.equal(built.draw(num_inference_steps=STEPS), plain)
