"""What a job does in its passes, batches and models, what stands down and what is told."""

import pytest
from acting import did
from harness import same

from lib_accel.settings.infotext import unquoted

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}


def report(host):
    from lib_accel.webui.jobs.session import SESSION

    return SESSION.last


@pytest.mark.parametrize("version", [(1, 10), (1, 9), (1, 7)])
@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_every_version_of_the_host(start, version, tab):
    host = start(version=version)
    done = host.job(tab, ON, n_iter=2)
    steps = 4 if tab == "img2img" else 5
    assert did(done, "merging", 3, (2 * steps, 2 * steps))
    assert not host.errors.reports


def test_account_in_comments_in_png_info_and_as_data(host):
    done = host.job(accel=ON)
    line = report(host)["line"]
    assert "; TokenMerging: merging on 3 of 7 layers for 5 of 5 steps" in line
    assert line in done.comments
    # What the settings tell as well is left out there.
    assert f"Accel report: {unquoted(line.split('; TokenMerging')[0])}." in done.infotexts[0]
    assert "a red cat" not in str(report(host))


@pytest.mark.parametrize(
    ("setting", "first", "second"),
    [
        ({}, "5 of 5", "5 of 5"),
        ({"hires.profile": "off"}, "5 of 5", "left alone"),
        ({"first_pass": False}, "left alone", "5 of 5"),
        ({"hires.merging_ratio": 0.3}, "5 of 5", "5 of 5"),
    ],
)
def test_hires_profiles(host, setting, first, second):
    done = host.job(accel=ON | setting, enable_hr=True)
    one, two = done.comments.split("hires pass:")
    assert first in one
    assert second in two


def test_the_hires_passs_own_ratio_is_used(host):
    host.job(accel=ON | {"hires.merging_ratio": 0.3}, enable_hr=True)
    ratios = [method["settings"]["ratio"] for p in report(host)["passes"] for method in p["report"]["methods"]]
    assert ratios == [0.5, 0.3]


def test_stages_follow_the_step_of_the_host(host):
    stages = {"agents.on": True, "agents.end": 0.4, "merging.start": 0, "merging.end": 1}
    done = host.job(accel=ON | stages, steps=10)
    assert did(done, "agents", 3, (4, 10)) and did(done, "merging", 3, (4, 10))
    assert did(done, "merging", 3, (6, 10), method="TokenMerging")


def test_second_order_samplers_count_evaluations(host):
    done = host.job(accel=ON | {"merging.end": 0.5}, steps=6, sampler_name="Heun")
    assert did(done, "merging", 3, (6, 11))


BATCHINGS = {
    "together": ({}, {}),
    "apart": ({"batch_cond_uncond": False}, {}),
    "and": ({}, {"prompt": "a cat AND a dog :0.5", "batch_size": 2}),
    "and, apart": ({"batch_cond_uncond": False}, {"prompt": "a cat AND a dog :0.5", "batch_size": 2}),
    "lengths": ({}, {"prompt": "a prompt of many words", "batch_size": 3}),
    "lengths, apart": ({"batch_cond_uncond": False}, {"prompt": "a prompt of many words"}),
    "lengths, padded": ({"pad_cond_uncond": True}, {"prompt": "a prompt of many words"}),
    "ngms": ({}, {"s_min_uncond": 9.0}),
    "ngms at all steps": ({"s_min_uncond_all": True}, {"s_min_uncond": 20.0}),
    "early": ({"skip_early_cond": 0.5}, {}),
    "early, apart": ({"skip_early_cond": 0.5, "batch_cond_uncond": False}, {"batch_size": 2}),
    "last batch smaller": ({}, {"prompt": ["a", "b", "c"], "batch_size": 2, "n_iter": 2}),
    "odd size": ({}, {"width": 136, "height": 72}),
}


@pytest.mark.parametrize("batching", BATCHINGS)
def test_every_row_is_labelled_whatever_the_batching(host, batching):
    options, fields = BATCHINGS[batching]
    host.shared.opts.data.update(options)
    seen = []
    from lib_accel import Accelerator

    told = Accelerator.step

    def step(self, index, total, rows=None, **more):
        seen.append([row.key for row in rows] if rows is not None else None)
        told(self, index, total, rows, **more)

    Accelerator.step = step
    try:
        done = host.job(accel=ON | {"merging.plan_every": 3}, **fields)
    finally:
        Accelerator.step = told
    assert None not in seen
    assert all(len(set(keys)) == len(keys) for keys in seen)
    assert "another extension" not in done.comments
    if batching.startswith("and"):
        assert seen[0] == [("cond", 0, 0), ("cond", 0, 1), ("cond", 1, 0), ("cond", 1, 1), ("uncond", 0, 0), ("uncond", 1, 0)]
    if batching in ("ngms at all steps", "early"):
        assert seen[0] == [("cond", 0, 0)]


def test_pictures_edited_by_instruction_have_a_third_row(host):
    host.sd_models.switch_to(host.model(conditioning_key="edit"))
    done = host.job("img2img", ON, image_cfg_scale=1.5)
    assert did(done, "merging", 3, (4, 4))


def test_inpainting_models(host):
    host.sd_models.switch_to(host.model(conditioning_key="hybrid"))
    assert did(host.job("img2img", ON), "merging", 3)


def test_a_batch_that_somebody_else_changes_is_left_unlabelled(host):
    def cut(params):
        # Another extension drops the negative prompt's rows before we see them.
        params.x, params.sigma, params.image_cond = params.x[:1], params.sigma[:1], params.image_cond[:1]
        params.text_uncond = params.text_cond[:0]

    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", cut))
    assert did(host.job(accel=ON), "merging", 3, (5, 5))


def test_a_batch_that_is_changed_after_us_is_noticed(host):
    def cut(params):
        params.x, params.sigma, params.image_cond = params.x[:1], params.sigma[:1], params.image_cond[:1]
        params.text_uncond = params.text_cond[:0]

    # The user may give others a place behind ours.
    def begin(params):
        if params.denoiser.step == 0:
            host.callbacks.on_cfg_denoiser(cut)

    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", begin))
    assert "another extension changes the batch" in host.job(accel=ON).comments


def test_refiner_in_the_middle_of_a_pass(start):
    host = start()
    other = host.model(seed=5, name="refiner")
    fields = {"refiner_model": other, "refiner_switch_at": 0.6}
    first = host.shared.sd_model
    off = host.job(**fields)
    host.sd_models.switch_to(first)
    done = host.job(accel=ON, **fields)
    assert "another model from step 4 on" in done.comments
    assert did(done, "merging", 3, (5, 5))
    assert not first.model.diffusion_model._forward_pre_hooks and not other.model.diffusion_model._forward_pre_hooks
    host.sd_models.switch_to(first)
    assert same(host.job(**fields), off)


def test_another_checkpoint_for_the_hires_pass(host):
    done = host.job(accel=ON, enable_hr=True, hr_model=host.model(seed=3, name="hires"))
    assert done.comments.count("merging on 3 of 7") == 2


def test_a_model_without_blocks(host):
    import torch

    model = host.model()
    model.model.diffusion_model = torch.nn.Module()
    model.model.diffusion_model.forward = lambda x, t, context=None: x * 0.1
    host.sd_models.switch_to(model)
    done = host.job(accel=ON)
    assert "0 of 0 layers: this model has no transformer blocks that Accel knows" in done.comments


def test_built_in_token_merging_wins(start):
    pytest.importorskip("tomesd")
    plain = start(extension=False).job(token_merging_ratio=0.5)
    host = start()
    done = host.job(accel=ON, token_merging_ratio=0.5)
    assert "methods on tokens off: the WebUI's own token merging is on" in done.comments
    assert same(done, plain)
    only_hires = host.job(accel=ON, enable_hr=True, token_merging_ratio_hr=0.5)
    assert did(only_hires, "merging", 3, method="TokenMerging", place="first pass")
    assert "hires pass: methods on tokens off: the WebUI's own token merging" in only_hires.comments


def test_another_unet_in_place_of_the_models(host):
    class Engine:
        def forward(self, x, timesteps, context, *args, **kwargs):
            return x * 0.1

    host.sd_unet.current_unet = Engine()
    assert "the option sd_unet runs the U-Net elsewhere" in host.job(accel=ON).comments


def test_hypertile_keeps_its_layers(host):
    from types import SimpleNamespace

    unet = host.shared.sd_model.model.diffusion_model
    setattr(unet.input_blocks[1][1].transformer_blocks[0].attn1, "__webui_hypertile_params", SimpleNamespace(enabled=True))
    done = host.job(accel=ON)
    assert "TokenMerging off on 1 layers: hypertile is active there" in done.comments
    assert did(done, "merging", 2)


def test_a_job_inside_a_job(start):
    without = start(extension=False).job("img2img", seed=9)
    host = start()
    inner = []

    def run_inner(p):
        if not inner:
            inner.append(None)
            # As ADetailer: a copy of the runner without our script.
            import copy

            q = host.p("img2img", seed=9)
            q.scripts = copy.copy(q.scripts)
            q.scripts.alwayson_scripts = [s for s in q.scripts.alwayson_scripts if s.title() == "Seed"]
            inner[0] = host.processing.process_images(q)

    host.module("Neighbour").Neighbour.inner = staticmethod(run_inner)
    done = host.job(accel=ON, n_iter=2)
    assert same(inner[0], without)
    assert "for 10 of 10 steps" in done.comments


def test_hypernetworks_and_up_casting_reach_our_computations(host):
    agents = ON | {"merging.on": False, "agents.ratio": 0, "agents.end": 1}
    plain = host.job(accel=agents)
    host.shared.loaded_hypernetworks.append(lambda x: x * 1.5)
    with_network = host.job(accel=agents)
    assert not same(with_network, plain)
    host.shared.loaded_hypernetworks.clear()
    host.shared.opts.upcast_attn = True
    assert same(host.job(accel=agents), plain)


def test_cells_of_a_grid_do_not_leak_into_each_other(host):
    off = host.job()
    done = host.grid("[Accel] On", "True, False", "[Accel] Merging: ratio", "0.3, 0.6", accel={"enabled": False, "auto": False})
    assert len(done.images) == 4
    on, plain, more, plain_again = done.infotexts
    assert "Accel: Custom" in on and "Accel merging ratio: 0.3" in on
    assert "Accel merging ratio: 0.6" in more
    assert "Accel" not in plain + plain_again
    assert done.infotexts[1] == off.infotexts[0].replace("a red cat\n", "a red cat\n")


def test_what_our_own_code_breaks_costs_no_job(start, monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", "0")
    without = start(extension=False).job()
    host = start()
    from lib_accel.webui.host import steps

    monkeypatch.setattr(steps, "rows_of", lambda *args: 1 / 0)
    done = host.job(accel=ON)
    assert "everything was switched off after an error: ZeroDivisionError" in done.comments
    assert same(done, without)
