"""The script Prompt-to-Prompt beside what else a host does: models, samplers, img2img, hires pass, the accordion, jobs that end early."""

import numpy as np
import pytest
from acting import did, evaluations_saved
from editing import SOURCE, SWAP, draw, prepare, told
from harness import pixels, same

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.on": True, "merging.ratio": 0.6, "agents.on": False, "first_pass": True}


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("together", [True, False])
def test_kinds_of_models_and_of_batching(host, kind, together):
    host.sd_models.switch_to(host.model(kind=kind))
    host.shared.opts.batch_cond_uncond = together
    done = draw(host, {**SWAP, "edits": "cat -> dog\n+ a long hat", "blend": "cat : dog, hat"})
    assert "cross-attention on " in done.comments and "[local blend]" in done.comments


@pytest.mark.parametrize("fields", [{"sampler_name": "Heun"}, {"sampler_name": "DDIM", "steps": 5}, {"width": 136, "height": 72}])
def test_samplers_and_sizes(host, fields):
    assert did(draw(host, SWAP, **fields), "cross-attention", 7)


def test_emphasis_alone_is_an_edit(host):
    done = draw(host, {"edits": "= a (red:1.9) cat"})
    _, source, edited = pixels(done)
    assert not np.array_equal(source, edited) and did(done, "cross-attention", 7)


def test_img2img(host):
    done = draw(host, SWAP, tab="img2img", steps=6, denoising_strength=0.6)
    assert did(done, "cross-attention", 7) and len(done.images) == 3


def test_in_the_hires_pass_only_weights_and_the_blend_go_on(host):
    fields = {"enable_hr": True, "hr_scale": 1.5, "steps": 3}
    done = draw(host, SWAP, **fields)
    assert "hires pass: Prompt-to-Prompt: no word has a weight here" in done.comments
    done = draw(host, {"edits": "red*3"}, **fields)
    assert did(done, "cross-attention", 7, method="PromptToPrompt", place="hires pass")
    whole = draw(host, {**SWAP, "hires": True}, **fields)
    assert all(did(whole, effect, layers, place="hires pass") for effect, layers in (("cross-attention", 7), ("self-attention", 1)))
    kept = draw(host, {**SWAP, "blend": "cat", "threshold": 1, "start": 0}, **fields)
    assert np.array_equal(pixels(kept)[1], pixels(kept)[2])


def test_the_accordion_goes_on_where_nothing_is_edited_and_says_so(host):
    done = draw(host, {**SWAP, "self_layers": "all"}, accel=ON)
    assert "Accel Custom: " in done.comments and "PromptToPrompt edits this layer" in done.comments
    assert did(done, "cross-attention", 7)
    assert told(done.infotexts[2])["Accel"] == "Custom"
    assert "Accel" not in told(draw(host, SWAP).infotexts[2])


@pytest.mark.parametrize(
    "gated", [{"tgate.on": True, "tgate.gate": 0.5}, {"guidance.on": True, "guidance.when": "after", "guidance.after": 0.5}]
)
def test_guidance_may_be_left_out_beside_it(host, gated):
    done = draw(host, {**SWAP, "blend": "cat"}, accel={"enabled": True, "preset": "Custom", "auto": False, **gated}, steps=6)
    assert did(done, "cross-attention", 7) and evaluations_saved(done) > 0 and "[local blend]" in done.comments


def test_bad_values_of_the_accordion_cost_no_edit(host):
    done = draw(host, SWAP, accel={"enabled": True, "merging.ratio": 7})
    assert "Accel is off for this job: merging.ratio is 7" in done.comments
    assert did(done, "cross-attention", 7)


def test_without_our_script_in_the_jobs_it_says_that_nothing_was_edited(host):
    runner = host.runners["txt2img"]
    runner.alwayson_scripts = [script for script in runner.alwayson_scripts if script.title() != "Accel"]
    assert "Accel took no part in the jobs, so nothing was edited" in draw(host, SWAP).comments


def test_the_hosts_job_stays_as_it_was_and_plain_jobs_are_plain(host):
    before = host.job(prompt=SOURCE)
    p = prepare(host, SWAP, seed=-1)
    fields = dict(vars(p))
    host.shared.state.begin("job")
    p.scripts.run(p, *p.script_args)
    assert {key: vars(p)[key] for key in fields} == fields and p.extra_generation_params == {}
    assert same(host.job(prompt=SOURCE), before)
    unet = host.shared.sd_model.model.diffusion_model
    assert all(not module._forward_pre_hooks and not module._forward_hooks and "forward" not in vars(module) for module in unet.modules())


@pytest.mark.parametrize("how", ["interrupt", "skip", "stopping"])
def test_what_was_finished_is_kept(host, jobs, how):
    def stop(params):
        if len(jobs) == 2:
            if how == "stopping":
                host.shared.state.stopping_generation = True
            else:
                getattr(host.shared.state, how)()

    host.callbacks.on_cfg_denoiser(stop)
    done = draw(host, {"edits": "\n".join(f"cat -> dog{i}" for i in range(6)), "at_once": 3}, steps=3)
    kept = {"interrupt": 2, "skip": 6, "stopping": 4}[how]
    assert len(done.images) == len(done.infotexts) == 1 + 1 + kept
    if how == "skip":
        assert "A batch was stopped early; its pictures are unfinished." in done.comments
    else:
        assert f"Ended early: {6 - kept} of 6 pictures were not drawn." in done.comments
    host.callbacks.remove_callbacks_for_function(stop)


def test_a_batch_that_fails_costs_only_what_comes_after_it(host, monkeypatch):
    run, count = host.processing.process_images, []

    def process_images(p):
        count.append(p)
        if len(count) == 2:
            raise RuntimeError("out of memory")
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    done = draw(host, {"edits": "cat -> dog\n+ hat", "at_once": 2}, steps=2)
    assert "Batch 2 of 2 failed and ended it: RuntimeError: out of memory." in done.comments
    assert len(done.images) == 3
    host.errors.reports.clear()
