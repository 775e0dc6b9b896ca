"""Presets exist for every family, can be applied, and know their models."""

import pytest
import torch
from models import UNETS, call, inputs

from lib_accel import SettingError, UnsupportedModelError, accelerated
from lib_accel.cli.architectures import build_unet
from lib_accel.settings.model_families import FAMILIES, family_of
from lib_accel.settings.presets import PRESETS, preset


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("family", FAMILIES)
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


def test_unknown_names_get_a_sentence():
    with pytest.raises(SettingError, match=r"preset is 'turbo'; it must be one of quality, balanced, fast, draft\."):
        preset("turbo")
    with pytest.raises(SettingError, match=r"family is 'flux'; it must be one of sd1"):
        preset("fast", "flux")


@pytest.mark.parametrize("size", [512, 1024])
@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M", "Euler"])
def test_each_preset_is_faster_than_the_one_before(size, sampler):
    from lib_accel.cost.preview import preview_pass, times_as_fast
    from lib_accel.settings.job import resolve
    from lib_accel.settings.passes import FIRST

    made = [resolve({"preset": name, "auto": False}, "sd1") for name in PRESETS]
    gains = [times_as_fast([preview_pass(settings, FIRST, "sd1", size, size, 25, 7, sampler)]) for settings in made]
    assert gains == sorted(gains) and gains[-1] > 1.15 * gains[-2] > 1


def test_a_picture_of_the_first_balanced_replays_as_it_was():
    """What PNG info of 0.1.0 held is no longer what the preset means."""
    from lib_accel import GuidanceSkip, TokenDownsampling, TokenMerging
    from lib_accel.settings.job import CUSTOM, METHOD_KNOBS, Settings, matching_preset
    from lib_accel.settings.passes import FIRST, methods_for
    from lib_accel.settings.schema import KNOBS

    stored = {"downsampling.on": True, "merging.on": True, "merging.ratio": 0.25, "merging.matching": "local", "guidance.on": True}
    stored |= {"guidance.when": "after", "guidance.after": 0.4, "guidance.reuse": True, "guidance.every": 3}
    read = Settings({name: KNOBS[name].default for name in METHOD_KNOBS} | stored | {"preset": "balanced"})
    assert matching_preset(read, "Balanced") == CUSTOM
    first = (TokenMerging(ratio=0.25, matching="local"), TokenDownsampling(), GuidanceSkip(when="after", after=0.4, reuse=True, every=3))
    assert {type(method): method for method in methods_for(read, FIRST)[0]} == {type(method): method for method in first}
