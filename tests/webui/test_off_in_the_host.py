"""A job with the extension loaded and off is the job without the extension, also after jobs that were on, failed or were stopped."""

import pytest
import torch
from harness import same
from traces import differences, fingerprint

ON = {"enabled": True, "preset": "Fast", "auto": False, "agents.on": True, "guidance.on": True, "guidance.when": "after"}
KINDS = {
    "txt2img": {},
    "hires": {"enable_hr": True},
    "img2img": {"tab": "img2img"},
    "batches": {"batch_size": 2, "n_iter": 2},
    "and": {"prompt": "a cat AND a dog :0.7"},
    "long": {"prompt": "a very long prompt of more words", "negative_prompt": "ugly"},
}


def plain(start, **fields):
    return start(extension=False).job(**fields)


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_and_off_equals_without(start, kind):
    without = plain(start, **KINDS[kind])
    host = start()
    off = host.job(**KINDS[kind])
    assert same(off, without)
    assert off.infotexts == without.infotexts
    assert off.comments == without.comments


@pytest.mark.parametrize("kind", KINDS)
def test_off_after_on_equals_without_and_nothing_is_left(start, kind):
    without = plain(start, **KINDS[kind])
    host = start()
    unet = host.shared.sd_model.model.diffusion_model
    before = fingerprint(unet)
    on = host.job(accel=ON, **KINDS[kind])
    assert differences(before, fingerprint(unet)) == set()
    assert not same(on, without)
    assert same(host.job(**KINDS[kind]), without)


def fail_in_unet(host, at, error):
    """The U-Net raises at its ``at``-th call from now on, once."""
    unet = host.shared.sd_model.model.diffusion_model
    calls = []

    def hook(module, args):
        calls.append(1)
        if len(calls) == at:
            handle.remove()
            raise error

    handle = unet.middle_block.register_forward_pre_hook(hook)


@pytest.mark.parametrize(("at", "version"), [(1, (1, 10)), (3, (1, 10)), (3, (1, 9))])
def test_off_after_an_error_in_the_unet(start, at, version):
    without = plain(start)
    host = start(version=version)
    unet = host.shared.sd_model.model.diffusion_model
    before = fingerprint(unet)
    fail_in_unet(host, at, torch.cuda.OutOfMemoryError("no memory"))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        host.job(accel=ON)
    assert differences(before, fingerprint(unet)) == set()
    assert same(host.job(), without)


def test_off_after_a_keyboard_interrupt_in_the_unet(start):
    without = plain(start)
    host = start()
    unet = host.shared.sd_model.model.diffusion_model
    before = fingerprint(unet)
    fail_in_unet(host, 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        host.job(accel=ON)
    assert same(host.job(), without)
    assert differences(before, fingerprint(unet)) == set()


@pytest.mark.parametrize("how", ["interrupt", "skip"])
def test_off_after_a_job_that_was_stopped(start, how):
    without = plain(start)
    host = start()
    unet = host.shared.sd_model.model.diffusion_model
    before = fingerprint(unet)

    def stop(params):
        if params.sampling_step == 2:
            getattr(host.shared.state, how)()

    host.callbacks.on_cfg_denoiser(stop)
    stopped = host.job(accel=ON)
    assert "4 steps, 4 U-Net calls" in stopped.comments
    assert differences(before, fingerprint(unet)) == set()
    host.callbacks.remove_callbacks_for_function(stop)
    assert same(host.job(), without)


def test_nothing_is_left_after_a_reload_and_the_fresh_scripts_work(start):
    without = plain(start)
    host = start()
    on = host.job(accel=ON)
    host.reload()
    assert same(host.job(), without)
    assert same(host.job(accel=ON), on)
    host.reload()
    assert len(host.callbacks.callbacks["cfg_denoiser"]) == 1


def test_scripts_executed_again_without_a_reload_register_nothing_twice(host):
    before = {category: len(found) for category, found in host.callbacks.callbacks.items()}
    from modules import script_loading

    script_loading.load_module(next(data.path for data in host.scripts.scripts_data if data.path.endswith("accel.py")))
    assert before == {category: len(found) for category, found in host.callbacks.callbacks.items()}
