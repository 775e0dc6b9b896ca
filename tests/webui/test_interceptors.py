"""Other extensions between the sampler and the U-Net, by the facts of their hooks: no job is lost or drawn otherwise, and they are told."""

import functools
import types

import pytest
import torch
from acting import unet_of
from harness import same
from stepping import SKIP, TGATE, rows_by_step

AT_ONE = {"enabled": True, "preset": "Custom", "auto": False}
FORECAST = AT_ONE | {"forecast.on": True, "forecast.every": 2}
GUIDED = [[2]] * 5


def on_job_begin(host, monkeypatch, register):
    """Most extensions register their callbacks when a job begins, after ours was registered."""
    monkeypatch.setattr(host.module("Neighbour").Neighbour, "process", lambda self, p, *args: register(p))


@pytest.mark.parametrize("accel", [AT_ONE, SKIP], ids=["at one", "skip"])
def test_callbacks_of_others_are_given_every_row(host, monkeypatch, accel):
    """CD Tuner changes the last rows as the negative prompt's, NegPiP takes another shape for a hires pass."""
    seen = []
    on_job_begin(host, monkeypatch, lambda p: host.callbacks.on_cfg_denoiser(lambda params: seen.append(len(params.x))))
    steps, _ = rows_by_step(host, accel, cfg_scale=1 if accel is AT_ONE else 5)
    assert [1] in steps and seen == [2] * 5


def by_windows(params):
    """AnimateDiff puts a forward on the inner model in the first step: it takes frames together with their rows of the other text."""
    inner = params.denoiser.inner_model
    if "forward" in vars(inner):
        return
    frames = params.denoiser.p.batch_size

    def forward(self, x, sigma, cond):
        out = torch.zeros_like(x)
        for frame in range(frames):
            rows = [frame, frame + frames]
            out[rows] = type(self).forward(self, x[rows], sigma[rows], {key: value[rows] for key, value in cond.items()})
        return out

    inner.forward = types.MethodType(forward, inner)


@pytest.mark.parametrize("accel", [AT_ONE, TGATE, FORECAST], ids=["at one", "gate", "forecast"])
def test_whoever_calls_the_u_net_with_rows_of_their_own_choice(host, monkeypatch, accel):
    on_job_begin(host, monkeypatch, lambda p: host.callbacks.on_cfg_denoiser(by_windows))
    fields = {"batch_size": 2, "cfg_scale": 1 if accel is AT_ONE else 5, "steps": 8}
    plain = host.job(**fields)
    steps, done = rows_by_step(host, accel, **fields)
    assert steps == [[2, 2]] * 8 and same(done, plain)
    assert "test_interceptors calls the U-Net in its own way" in done.comments or accel is AT_ONE
    assert not host.errors.reports


def test_whoever_puts_itself_in_the_place_of_apply_model(host):
    """Mixture of Diffusers, with one region over the whole picture and no background: as many rows as without."""
    model = host.shared.sd_model

    @torch.no_grad()
    def apply_model_hijack(self, x, t, cond):
        return type(model).apply_model(model, x.flip(0), t, {k: v.flip(0) for k, v in cond.items()}).flip(0)

    model.apply_model = types.MethodType(apply_model_hijack, model)
    steps, done = rows_by_step(host, TGATE)
    assert steps == GUIDED and "off: test_interceptors calls the U-Net in its own way" in done.comments
    whose = type("MixtureOfDiffusers", (), {"__module__": "tile_methods.mixtureofdiffusers", "run": apply_model_hijack})
    model.apply_model = whose().run
    assert "off: mixtureofdiffusers calls the U-Net in its own way" in rows_by_step(host, TGATE)[1].comments
    # What it puts back is the class's own function, as an attribute of the model.
    model.apply_model = type(model).apply_model.__get__(model)
    steps, done = rows_by_step(host, TGATE)
    assert steps == [[2]] * 2 + [[1]] * 3 and "in its own way" not in done.comments


@pytest.mark.parametrize("accel", [TGATE, SKIP, AT_ONE], ids=["gate", "skip", "at one"])
def test_motion_modules_make_rows_one_video(host, accel):
    made = type("VanillaTemporalModule", (torch.nn.Identity,), {"__module__": "motion_module"})()
    unet_of(host).input_blocks[1].append(made)
    fields = {"batch_size": 2, "cfg_scale": 1 if accel is AT_ONE else 5}
    steps, done = rows_by_step(host, accel, **fields)
    assert steps == [[4]] * 5 and "off: AnimateDiff needs every row of every step" in done.comments


class Mask:
    """Latent Couple: a script that lays masks over the rows' predictions, and leaves its callback in place when it is off."""

    def __init__(self):
        self.enabled, self.seen = True, []

    def denoised(self, params):
        if self.enabled:
            self.seen.append(len(params.x))
            params.x[0] = (params.x[0] + params.x[-1]) / 2


@pytest.mark.parametrize("accel", [AT_ONE, SKIP, TGATE], ids=["at one", "skip", "gate"])
def test_whoever_works_on_all_predictions_gets_them_all(host, accel):
    mask = Mask()
    host.callbacks.on_cfg_denoised(mask.denoised)
    fields = {"cfg_scale": 1 if accel is AT_ONE else 5}
    steps, done = rows_by_step(host, accel, **fields)
    assert steps == GUIDED and mask.seen == [2] * 5
    assert "guidance was kept: test_interceptors works on the predictions of all rows" in done.comments
    mask.enabled = False
    assert [1] in rows_by_step(host, accel, **fields)[0]


def test_a_callback_of_a_script_that_names_its_switch_in_its_file(host):
    """Self-Attention Guidance's."""
    names = {"__name__": "SAG.py", "sag_enabled": False}
    exec("class Script:\n    def denoised(self, params):\n        pass", names)
    host.callbacks.on_cfg_denoised(names["Script"]().denoised)
    assert [1] in rows_by_step(host, SKIP)[0]
    names["sag_enabled"] = True
    steps, done = rows_by_step(host, SKIP)
    assert steps == GUIDED and "SAG works on the predictions of all rows" in done.comments


def test_a_guidance_that_runs_the_u_net_once_more(host, monkeypatch):
    """Perturbed-Attention Guidance: the prompt's text in all rows of the step, in a call of its own. At scale 1 it is all the guidance."""
    kept = {}

    def before(params):
        kept.update(x=params.x, sigma=params.sigma, text=params.text_cond, image=params.image_cond)

    def after(params):
        cond = {"c_crossattn": torch.cat([kept["text"]] * 2), "c_concat": kept["image"]}
        kept["other"] = params.inner_model(kept["x"], kept["sigma"], cond=cond)
        params.x[0] += (params.x[0] - kept["other"][1]) * 0.5

    def register(p):
        host.callbacks.on_cfg_denoiser(before)
        host.callbacks.on_cfg_denoised(after)

    on_job_begin(host, monkeypatch, register)
    plain = host.job(cfg_scale=1)
    host.callbacks.callbacks["cfg_denoised"].clear()
    for accel in (AT_ONE, FORECAST):
        steps, done = rows_by_step(host, accel, cfg_scale=1)
        host.callbacks.callbacks["cfg_denoised"].clear()
        assert steps == [[2, 2]] * 5 and same(done, plain)


def combining(function):
    """Puts ``function(own, x_out, conds_list, uncond, scale)`` in the place of a denoiser's `combine_denoised`."""

    def put(params):
        denoiser = params.denoiser
        vars(denoiser).pop("combine_denoised", None)
        denoiser.combine_denoised = functools.partial(function, denoiser.combine_denoised)

    return put


def contrast(own, x_out, conds_list, uncond, scale):
    """As Dynamic Thresholding at a mimicked scale: another picture also at scale 1."""
    return own(x_out, conds_list, uncond, scale) + (x_out[0] - x_out[-1]) * 0.5


def test_scale_one_is_kept_where_another_extension_combines(host):
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", combining(contrast)))
    plain = host.job(cfg_scale=1)
    steps, done = rows_by_step(host, AT_ONE, cfg_scale=1)
    assert steps == GUIDED and same(done, plain)
    assert "guidance at scale 1 was kept: test_interceptors combines predictions in its own way" in done.comments


def test_and_prompts_are_kept_where_another_extension_combines(host):
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", combining(contrast)))
    steps, done = rows_by_step(host, SKIP, prompt="a AND b")
    assert steps == [[3]] * 5 and "guidance was kept: test_interceptors combines predictions in its own way" in done.comments
    assert rows_by_step(host, SKIP)[0] == [[2]] * 2 + [[1]] * 3


def test_neutral_prompt_counts_where_there_is_an_and(host):
    """It is on every denoiser, and passes on what holds no AND."""
    names = {"__name__": "lib_neutral_prompt.cfg_denoiser_hijack"}
    exec("def hijack(x, conds, uncond, scale, original_function):\n    return original_function(x, conds, uncond, scale)", names)

    def put(params):
        denoiser = params.denoiser
        vars(denoiser).pop("combine_denoised", None)
        denoiser.combine_denoised = functools.partial(names["hijack"], original_function=denoiser.combine_denoised)

    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", put))
    assert rows_by_step(host, AT_ONE, cfg_scale=1)[0] == [[1]] * 5
    steps, done = rows_by_step(host, SKIP, prompt="a AND b")
    assert steps == [[3]] * 5 and "cfg_denoiser_hijack combines predictions in its own way" in done.comments
