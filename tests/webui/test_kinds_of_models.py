"""Jobs with every kind of checkpoint, in half precision, and with checkpoints that change between passes, batches and jobs."""

import models
import pytest
import torch
from harness import same
from traces import differences, fingerprint

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5, "merging.max_downsample": 2}
# Layers at the finest two levels that have attention; in SDXL these are all.
LAYERS = {"sd1": "6 of 7", "sd2": "6 of 7", "sdxl": "11 of 11"}
JOBS = {
    "plain": {},
    "together": {"batch_size": 2, "prompt": ["a", "a prompt of many words"]},
    "and": {"prompt": ["a cat AND a dog :0.5", "a house"], "batch_size": 2},
    "lengths": {"prompt": "a prompt of many words"},
    "odd": {"width": 136, "height": 72},
    "hires": {"enable_hr": True},
}


def use(host, kind, **given):
    host.sd_models.switch_to(host.model(kind=kind, **given))
    return host


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_off_is_exact_and_on_acts(start, kind, job):
    without = use(start(extension=False), kind).job(**JOBS[job])
    host = use(start(), kind)
    unet = host.shared.sd_model.model.diffusion_model
    before = fingerprint(unet)
    assert same(host.job(**JOBS[job]), without)
    on = host.job(accel=ON, **JOBS[job])
    assert f"{LAYERS[kind]} layers for 5 of 5 steps" in on.comments
    assert not same(on, without)
    assert differences(before, fingerprint(unet)) == set()
    assert same(host.job(**JOBS[job]), without)


@pytest.mark.parametrize("apart", [False, True])
def test_sdxl_rows_are_labelled_in_every_batching(start, apart):
    host = use(start(), "sdxl")
    host.shared.opts.batch_cond_uncond = not apart
    for fields in ({"prompt": "a prompt of many words", "batch_size": 2}, {"s_min_uncond": 20.0}, {"prompt": "a AND b"}):
        done = host.job(accel=ON | {"merging.plan_every": 3}, **fields)
        assert "5 of 5 steps" in done.comments and "another extension" not in done.comments


def test_a_network_of_another_kind(start):
    without = use(start(extension=False), "sd3").job()
    done = use(start(), "sd3").job(accel=ON)
    assert "0 of 0 layers: this model has no transformer blocks that Accel knows" in done.comments
    assert same(done, without)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_half_precision(start, kind):
    models.need(torch.bfloat16)

    def begin(**given):
        host = use(start(**given), kind)
        models.in_dtype(host.shared.sd_model.model.diffusion_model, torch.bfloat16)
        return host

    without = begin(extension=False).job()
    host = begin()
    fast = {"enabled": True, "preset": "Fast", "auto": False}
    for on, effect in ((ON, "merging on"), (fast, "downsampling on"), (fast | {"agents.on": True}, "agents on")):
        done = host.job(accel=on)
        assert effect in done.comments and "of 5 steps" in done.comments and "error" not in done.comments
        assert not same(done, without)
    assert same(host.job(), without)


@pytest.mark.parametrize("trash", [False, True])
def test_the_refiner_of_sdxl_has_another_width_and_takes_the_base_models_place(start, trash):
    host = use(start(), "sdxl")
    base = host.shared.sd_model
    refiner = host.model(seed=5, name="refiner", kind="sdxl", context_dim=24)
    untouched = fingerprint(refiner.model.diffusion_model)
    done = host.job(accel=ON, refiner_model=refiner, refiner_switch_at=0.6, refiner_trashes=trash)
    assert "another model from step 4 on" in done.comments
    assert "11 of 11 layers for 5 of 5 steps" in done.comments
    assert differences(untouched, fingerprint(refiner.model.diffusion_model)) == set()
    assert not base.model.diffusion_model._forward_pre_hooks


def test_a_refiner_that_has_no_blocks(start):
    host = use(start(), "sdxl")
    done = host.job(accel=ON, refiner_model=host.model(kind="sd3", name="other"), refiner_switch_at=0.6)
    assert "layers for 3 of 3 steps" in done.comments
    assert "another model from step 4 on" in done.comments and "0 of 0 layers" in done.comments


@pytest.mark.parametrize("hr", [{"hr_sampler_name": "DDIM", "hr_second_pass_steps": 8}, {"hr_prompt": "a prompt of many words"}])
def test_a_hires_pass_of_another_sampler_prompt_and_checkpoint(start, hr):
    fields = {"enable_hr": True, "hr_scale": 1.5, **hr}

    def with_other(host):
        use(host, "sdxl")
        return {**fields, "hr_model": host.model(seed=3, name="hires")}

    host = start(extension=False)
    without = host.job(**with_other(host))
    host = start()
    done = host.job(accel=ON, **with_other(host))
    first, hires = done.comments.split("hires pass:")
    assert "11 of 11 layers for 5 of 5 steps" in first
    assert "6 of 7 layers for" in hires
    assert same(host.job(**with_other(host)), without)


def test_the_hires_pass_alone_as_the_upscale_button_does(start):
    host = start()
    done = host.job(accel=ON, enable_hr=True, firstpass_image=object())
    assert "6 of 7 layers for 5 of 5 steps" in done.comments
    assert "first pass" not in done.comments


def test_another_checkpoint_in_the_same_object(start):
    def jobs(host, accel):
        other = host.model(seed=7).model.diffusion_model.state_dict()
        one = host.job(accel=accel)
        host.sd_models.load_into(host.shared.sd_model, other, "other")
        return one, host.job(accel=accel), host.job()

    host = start(extension=False)
    _, _, without = jobs(host, None)
    host = start()
    one, two, off = jobs(host, ON)
    assert same(off, without)
    assert not same(one, two) and not same(two, off)
    assert two.comments.count("6 of 7 layers for 5 of 5 steps") == 1


def test_a_checkpoint_that_was_kept_in_memory_comes_back_untold(start):
    host = start()
    first = host.shared.sd_model
    before = fingerprint(first.model.diffusion_model)
    one = host.job(accel=ON)
    use(host, "sdxl")
    loads = len(host.sd_models.model_data.loaded_sd_models)
    assert "11 of 11" in host.job(accel=ON).comments
    host.sd_models.switch_to(first)
    assert len(host.sd_models.model_data.loaded_sd_models) == loads
    assert same(host.job(accel=ON), one)
    assert differences(before, fingerprint(first.model.diffusion_model)) == set()


def test_a_checkpoint_that_is_exchanged_between_batches(start):
    host = start()
    other = host.model(kind="sdxl", name="other")
    neighbour = type(host.script("txt2img", "Neighbour"))
    neighbour.before_process_batch = lambda self, p, *args, **told: host.sd_models.switch_to(other) if told["batch_number"] else None
    done = host.job(accel=ON, n_iter=2)
    assert "6 of 7 layers for 5 of 5 steps" in done.comments or "for 10 of 10 steps" in done.comments
    assert not other.model.diffusion_model._forward_pre_hooks
    assert not host.errors.reports


def test_a_model_is_never_loaded_by_the_page(start):
    host = start()
    host.reload()
    host.args("txt2img")
    assert host.sd_models.model_data.loads == 0
