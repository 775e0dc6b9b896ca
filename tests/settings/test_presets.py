"""Presets exist for every family, can be applied, and know their models."""

import pytest
import torch
import transformers_tiny as tiny
from models import UNETS, call, inputs

from lib_accel import Forecast, GuidanceSkip, SettingError, UnsupportedModelError, accelerated
from lib_accel.cli.architectures import build_unet
from lib_accel.cost.preview import preview_pass, times_as_fast
from lib_accel.settings.job import resolve
from lib_accel.settings.model_families import FAMILIES, family_of
from lib_accel.settings.passes import FIRST
from lib_accel.settings.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "transformer"])
def test_every_preset_of_every_family_applies(name, family):
    unet = UNETS["diffusers"]()
    with accelerated(unet, *preset(name.upper(), family)) as accelerator:
        for timestep in (999, 700, 400, 100):
            call(unet, inputs(timestep=timestep))
    methods = accelerator.report().as_dict()["methods"]
    if (name, family) in {("quality", "sd1"), ("quality", "sd2"), ("quality", "sdxl")}:
        # It acts on whole steps alone, of which a bare U-Net tells nothing.
        assert [reason["code"] for reason in methods[0]["reasons"]] == ["no_forecast"]
    else:
        assert any(method["layers"] for method in methods)


@pytest.mark.parametrize(("name", "family"), [("sd15", "sd1"), ("sd21", "sd2"), ("sdxl", "sdxl")])
def test_family_of_the_known_shapes(name, family):
    unet = build_unet(name, "diffusers", device="meta")
    assert family_of(unet) == family
    assert family_of(unet, steps=4) == "few-step" and family_of(unet, steps=25) == family


def test_unknown_widths_count_as_sd1_and_what_is_no_unet_is_refused():
    assert family_of(UNETS["ldm"]()) == "sd1"
    with pytest.raises(UnsupportedModelError):
        family_of(torch.nn.Linear(1, 1))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_transformers_hold_what_can_act_on_them(name):
    """In a diffusers pipeline: whole steps are forecast, and nothing is said of methods that need layers."""
    built, why = tiny.build("FluxPipeline")
    assert built is not None, why
    assert family_of(built.model) == family_of(built.model, steps=4) == "transformer"
    methods = preset(name, "transformer")
    assert not any(method.runner().acts_inside for method in methods) and isinstance(methods[0], Forecast)
    with accelerated(built.pipe, *methods) as accelerator:
        built.draw(num_inference_steps=16)
    report = accelerator.report().as_dict()
    assert "whole_calls_only" not in str(report["methods"]) and report["unet_calls"] == 16


def test_the_look_ahead_at_a_transformer():
    """Steps forecast and rows left out alone, and nothing where a pass of flow matching stays as it is."""

    def shown(steps, sampler="Euler", **given):
        return preview_pass(resolve({"auto": False, **given}, "transformer"), FIRST, "transformer", 512, 512, steps, 5, sampler)

    gains = [times_as_fast([shown(25, preset=name)]) for name in ("quality", "balanced", "fast")]
    assert 1.1 < gains[0] < gains[1] < gains[2] < 2.5
    assert {kind for step in shown(25, preset="balanced").steps for kind in step} == {"forecast"}
    inside = shown(25, preset="custom", **{"merging.on": True, "tgate.on": True, "deepcache.on": True})
    assert not any(inside.steps) and inside.work == inside.plain
    for still in (shown(8, preset="fast"), shown(25, "Euler a", preset="fast")):
        assert not any("forecast" in step for step in still.steps)
    assert any(shown(8, preset="custom", **{"forecast.on": True, "forecast.every": 2}).steps)


@pytest.mark.parametrize("given", [1, 1.0], ids=str)
def test_a_choice_among_numbers_takes_the_number_however_it_is_written(given):
    method = GuidanceSkip(order=given)
    assert method == GuidanceSkip(order=1) and type(method.order) is int
    for other in (True, 0.3, "1"):
        with pytest.raises(SettingError, match=r"GuidanceSkip\.order is"):
            GuidanceSkip(order=other)


def test_unknown_names_get_a_sentence():
    with pytest.raises(SettingError, match=r"preset is 'turbo'; it must be one of quality, balanced, fast, draft\."):
        preset("turbo")
    with pytest.raises(SettingError, match=r"family is 'flux'; it must be one of sd1"):
        preset("fast", "flux")


@pytest.mark.parametrize("size", [512, 1024])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "Euler"])
def test_each_preset_is_faster_than_the_one_before(size, sampler):
    made = [resolve({"preset": name, "auto": False}, "sd1") for name in PRESETS]
    gains = [times_as_fast([preview_pass(settings, FIRST, "sd1", size, size, 25, 7, sampler)]) for settings in made]
    assert gains == sorted(gains) and gains[-1] > 1.15 * gains[-2] > 1


def test_a_picture_of_the_first_balanced_replays_as_it_was():
    """What PNG info of 0.1.0 held is no longer what the preset means."""
    from lib_accel import GuidanceSkip, TokenDownsampling, TokenMerging
    from lib_accel.settings.job import CUSTOM, METHOD_KNOBS, Settings, matching_preset
    from lib_accel.settings.passes import methods_for
    from lib_accel.settings.schema import KNOBS

    stored = {"downsampling.on": True, "merging.on": True, "merging.ratio": 0.25, "merging.matching": "local", "guidance.on": True}
    stored |= {"guidance.when": "after", "guidance.after": 0.4, "guidance.reuse": True, "guidance.every": 3}
    read = Settings({name: KNOBS[name].default for name in METHOD_KNOBS} | stored | {"preset": "balanced"})
    assert matching_preset(read, "Balanced") == CUSTOM
    first = (TokenMerging(ratio=0.25, matching="local"), TokenDownsampling(), GuidanceSkip(when="after", after=0.4, reuse=True, every=3))
    assert {type(method): method for method in methods_for(read, FIRST)[0]} == {type(method): method for method in first}


def test_settings_by_position_stand_where_they_stood_in_the_first_version():
    """Hosts' files and API calls give settings by position."""
    import json
    from pathlib import Path

    from lib_accel.settings.schema import KNOBS

    first = json.loads((Path(__file__).parent.parent / "data" / "knobs_of_0_1_0.json").read_text(encoding="utf-8"))
    assert list(KNOBS)[: len(first)] == first
    # Then what came while 0.2.0 was made, in that order.
    fields = ("on", "every", "branch", "tolerance", "warm_up", "warm_sigma", "last", "order", "start", "end")
    deep = [f"deepcache.{field}" for field in fields]
    assert list(KNOBS)[-len(deep) - 1 :] == [*deep, "deepcache.only_where_better"]


def test_png_info_of_the_first_version_keeps_a_direction_as_that_version_did():
    from lib_accel.settings.infotext import from_infotext, to_infotext
    from lib_accel.settings.job import Settings
    from lib_accel.settings.passes import methods_for

    first = {
        "Accel": "Custom",
        "Accel guidance skip": "True",
        "Accel guidance skip when": "after",
        "Accel guidance skip keep the direction": "True",
    }
    (direction,) = methods_for(from_infotext(first), FIRST)[0]
    assert (direction.decay, direction.order) == (0.9, 0)
    today = Settings({"enabled": True, "preset": "custom", "guidance.on": True, "guidance.when": "after", "guidance.reuse": True})
    told = to_infotext(today)
    assert {key: told[key] for key in told if "direction" in key and "keep" not in key} == {
        "Accel guidance skip direction kept per step": "1",
        "Accel guidance skip order of the direction": "by sampler",
    }
    assert dict(from_infotext(told)) == dict(today)
    # Switched off it means nothing, and is kept as it is set.
    idle = Settings({"enabled": True, "preset": "custom", "guidance.reuse": True})
    assert dict(from_infotext(to_infotext(idle))) == dict(idle)
    without = Settings({"enabled": True, "preset": "custom", "guidance.on": True})
    assert not any("direction" in key for key in to_infotext(without)) and dict(from_infotext(to_infotext(without))) == dict(without)
