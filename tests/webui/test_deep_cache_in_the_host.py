"""DeepCache in the host double: which steps run the shallow stages alone, and what is told of it."""

import pytest
import torch
from acting import unet_of
from harness import pixels, same
from stepping import last_report
from traces import differences, fingerprint

from lib_accel.methods.deep_cache import DeepCache

STEPS = 12
DEEP = {"enabled": True, "preset": "Custom", "auto": False, "deepcache.on": True, "deepcache.warm_up": 0.3}
FIXED = [step for step, kinds in enumerate(DeepCache(warm_up=0.3).schedule(STEPS).kinds) if kinds]


def parts(host):
    """(report, DeepCache's part of it) of every pass of the last job, or of every part of one."""
    reports = [entry["report"] for entry in last_report(host)["passes"]]
    return [(report, next(m for m in report["methods"] if m["method"] == "DeepCache")) for report in reports]


def shallow_steps(host):
    return [method["shallow_steps"] for _, method in parts(host)]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("sd1", {}),
        ("sd1", {"prompt": ["a AND b", "c"], "batch_size": 2}),
        ("sd1", {"sampler_name": "DPM++ 2M", "width": 72, "height": 104}),
        ("sd1", {"sampler_name": "DDIM"}),
        ("sdxl", {"batch_size": 2}),
        ("sdxl", {"sampler_name": "Euler a"}),
    ],
    ids=str,
)
def test_steps_between_whole_ones(host, kind, fields):
    host.sd_models.switch_to(host.model(kind=kind))
    unet = unet_of(host)
    plain, before = host.job(steps=STEPS, **fields), fingerprint(unet)
    done = host.job(accel=DEEP, steps=STEPS, **fields)
    # DDIM has a step less here.
    expected = len([step for step in FIXED if step < parts(host)[0][0]["steps"]])
    assert shallow_steps(host) == [expected] and parts(host)[0][0]["stages_served"] > 0 and parts(host)[0][1]["cache_bytes"] > 0
    assert f"deep stages reused for {expected} of" in done.comments and "MiB kept" in done.comments
    assert not same(done, plain) and not differences(before, fingerprint(unet))
    assert same(host.job(steps=STEPS, **fields), plain)


@pytest.mark.parametrize("more", [{}, {"deepcache.order": 1}, {"deepcache.tolerance": 1000}], ids=str)
def test_rows_apart_are_the_rows_together(host, more):
    together = host.job(accel=DEEP | more, steps=STEPS)
    host.shared.opts.data["batch_cond_uncond"] = False
    apart = host.job(accel=DEEP | more, steps=STEPS)
    assert shallow_steps(host) == [len(FIXED)]
    assert abs(pixels(together)[0].astype(int) - pixels(apart)[0].astype(int)).max() <= 1


def test_pictures_are_those_of_jobs_of_their_own(host):
    both = pixels(host.job(accel=DEEP, steps=STEPS, batch_size=2, seed=3))
    alone = [pixels(host.job(accel=DEEP, steps=STEPS, seed=seed))[0] for seed in (3, 4)]
    assert all(abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(both, alone, strict=True))


def test_the_hires_pass_has_its_own_warm_up(host):
    host.job(accel=DEEP, steps=STEPS, enable_hr=True, hr_second_pass_steps=STEPS, denoising_strength=0.9)
    _, (second, _) = parts(host)
    assert shallow_steps(host) == [len(FIXED), sum(map(bool, DeepCache(warm_up=0.3).schedule(second["steps"]).kinds))]


def test_image_to_image(host):
    done = host.job("img2img", accel=DEEP, steps=16, denoising_strength=0.7)
    ((report, _),) = parts(host)
    assert shallow_steps(host) == [sum(map(bool, DeepCache(warm_up=0.3).schedule(report["steps"]).kinds))] != [0]
    assert same(host.job("img2img", accel=DEEP, steps=16, denoising_strength=0.7), done)


def test_prompts_that_change(host):
    """Nothing is served before the last change, and nothing over it."""
    host.job(accel=DEEP, prompt="a [b:c:0.5]", steps=STEPS)
    # The new prompt is there from 7 on: whole then, shallow at 8 and 10, and the last one is whole.
    assert shallow_steps(host) == [2] and "change" in " ".join(parts(host)[0][1]["notes"])


@pytest.mark.parametrize("same_unet", [False, True])
def test_a_refiner_begins_anew_in_the_same_pass(host, same_unet):
    refiner = host.model(seed=5, name="refiner")
    if same_unet:
        refiner.model.diffusion_model = host.shared.sd_model.model.diffusion_model
    done = host.job(accel=DEEP, refiner_model=refiner, refiner_switch_at=0.5, steps=STEPS)
    assert sum(report["passes"] for report, _ in parts(host)) == 1 and sum(report["steps"] for report, _ in parts(host)) == STEPS
    # 4; then whole at 6, the first of the second model, shallow at 7 and 9, and the last one runs in whole.
    assert sum(shallow_steps(host)) == 3 and f"deep stages reused for 3 of {STEPS} steps" in done.comments


@pytest.mark.parametrize("fields", [{"sampler_name": "DPM adaptive"}])
def test_where_every_step_runs_in_whole(host, fields):
    plain = host.job(steps=STEPS, **fields)
    done = host.job(accel=DEEP, steps=STEPS, **fields)
    assert same(done, plain) and "DeepCache is off" in done.comments


class FreeU:
    """What FreeU puts in the place of torch where an LDM U-Net joins skip connections."""

    def __getattr__(self, name):
        return getattr(torch, name)

    def cat(self, tensors, dim):
        h, skip = tensors
        highest, _ = torch.max(h.mean(1).flatten(1), dim=-1, keepdim=True)
        h *= 1 + 0.1 * (h.mean(1, keepdim=True) / highest[..., None, None])
        return torch.cat([h, torch.fft.ifftn(torch.fft.fftn(skip, dim=(-2, -1)) * 0.9, dim=(-2, -1)).real], dim=dim)


def test_beside_freeu(host, monkeypatch):
    from ldm.modules.diffusionmodules import openaimodel

    monkeypatch.setattr(openaimodel, "th", FreeU())
    plain = host.job(steps=STEPS)
    host.job(accel=DEEP, steps=STEPS)
    assert shallow_steps(host) == [len(FIXED)] and not host.errors.reports
    assert same(host.job(steps=STEPS), plain)
