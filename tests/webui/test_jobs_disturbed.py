"""Jobs that others disturb: compiled U-Nets, samplers of no fixed length, jobs inside a pass, scripts with results of their own."""

import pytest
from acting import did, evaluations_saved
from harness import same
from traces import differences, fingerprint

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}
GUIDED = {"enabled": True, "preset": "Fast", "auto": False}


def test_a_compiled_unet_is_called_that(host):
    host.shared.sd_model.model.diffusion_model.compile(backend="eager")
    for accel in (ON, GUIDED):
        done = host.job(accel=accel, steps=11, cfg_scale=7)
        assert "everything is off: the U-Net is compiled" in done.comments
        assert "another extension" not in done.comments


@pytest.mark.parametrize("steps", [8, 20])
def test_a_sampler_of_no_fixed_length_keeps_its_guidance(host, steps):
    """DPM adaptive: a part of the steps would be anywhere."""
    fields = {"cfg_scale": 7, "steps": steps}
    done = host.job(accel=GUIDED, sampler_name="DPM adaptive", **fields)
    assert "guidance is kept in every step: this sampler chooses the number of steps itself" in done.comments
    assert did(done, "downsampling", 3) and evaluations_saved(done) == 0
    assert "few-step" not in done.comments
    assert "guidance is kept in every step" not in host.job(accel=GUIDED, **fields).comments
    alone = host.job(accel={"enabled": True, "preset": "Custom", "auto": False}, sampler_name="DPM adaptive", cfg_scale=1, steps=steps)
    assert evaluations_saved(alone) == steps, "at scale 1 nothing is lost"


def test_a_job_with_all_scripts_in_the_middle_of_a_pass(host):
    inner = []

    def run(params):
        if not inner and host.shared.state.sampling_step == 1:
            inner.append(None)
            inner[0] = host.job("img2img", seed=9)

    host.callbacks.on_cfg_denoiser(run)
    done = host.job(accel=ON)
    assert inner and "ended early: another job ran inside this one" in done.comments
    assert "5 of 5" not in done.comments


def test_a_script_with_a_result_of_its_own_tells_of_the_last_job(host):
    """Loopback, SD upscale and the like make it of the job's comments."""
    p = host.p(accel=ON)
    host.shared.state.begin("job")
    for p.steps in (3, 4):
        host.processing.process_images(p)
    told = host.processing.Processed(p, [], []).comments
    assert told.count("Accel Custom: ") == 1 and "for 4 of 4 steps" in told
    p.script_args = host.p(accel={"enabled": False}).script_args
    host.processing.process_images(p)
    assert "Accel" not in host.processing.Processed(p, [], []).comments


def test_cells_that_share_the_comments_have_one_line_each(host):
    import copy

    p = host.p(accel=ON)
    host.shared.state.begin("job")
    for _ in range(2):
        done = host.processing.process_images(copy.copy(p))
        assert done.comments.count("Accel Custom: ") == 1


@pytest.mark.parametrize("version", [(1, 10), (1, 9)])
def test_an_error_in_the_second_batch_leaves_nothing(start, version):
    host = start(version=version)
    unet = host.shared.sd_model.model.diffusion_model
    before, calls = fingerprint(unet), []

    def fail(module, args):
        calls.append(1)
        if len(calls) == 8:
            handle.remove()
            raise RuntimeError("no memory")

    handle = unet.middle_block.register_forward_pre_hook(fail)
    without = fingerprint(unet)
    with pytest.raises(RuntimeError, match="no memory"):
        host.job(accel=ON, n_iter=2)
    assert differences(before, fingerprint(unet)) == set() != differences(before, without)


def test_an_account_that_is_lost_costs_no_pass(start, monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", "0")
    host = start()
    with_account = host.job(accel=ON, enable_hr=True)
    from lib_accel.engine.accelerator import Accelerator

    monkeypatch.setattr(Accelerator, "report", lambda self: 1 / 0)
    done = host.job(accel=ON, enable_hr=True)
    assert same(done, with_account)
    assert done.comments.count("its report was lost to an error: ZeroDivisionError") == 2
