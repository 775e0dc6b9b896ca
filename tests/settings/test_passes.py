"""What a pass runs: the order of methods, scale 1, the hires pass's own gate; and what of it can be told beforehand."""

import pytest

from lib_accel import GuidanceSkip, SettingError, TGate
from lib_accel.settings.job import METHOD_KNOBS, Settings, preset_values, resolve
from lib_accel.settings.passes import FIRST, HIRES, methods_for
from lib_accel.settings.schema import GROUPS, KNOBS

AT_SCALE_ONE = GuidanceSkip(when="after", after=1.0)
BARE = {"enabled": True, "preset": "custom"}


def methods(place=FIRST, scale=None, **given):
    return methods_for(Settings({**BARE, **{name.replace("__", "."): value for name, value in given.items()}}), place, scale)[0]


def test_at_scale_one_guidance_goes_first_and_once():
    assert methods(scale=1) == (AT_SCALE_ONE,)
    assert methods(scale=1, drop_at_one=False) == ()
    assert methods(scale=7) == methods() == ()
    # The prompt's own row is the one that stays, whatever T-GATE would run.
    assert [type(m) for m in methods(scale=1, tgate__on=True)] == [GuidanceSkip, TGate]
    assert methods(scale=1, guidance__on=True, guidance__threshold=0.9) == (GuidanceSkip(threshold=0.9),)
    assert methods(scale=1, first_pass=False) == ()


def test_the_hires_passs_own_gate():
    given = {"tgate__on": True, "tgate__gate": 0.3, "tgate__cache": "mean", "hires__merging_ratio": 0}
    assert methods(HIRES, **given) == (TGate(gate=0.3, cache="mean"),)
    assert methods(HIRES, **given, hires__profile="own") == ()
    assert methods(HIRES, **given, hires__profile="own", hires__gate=0.7) == (TGate(gate=0.7, cache="mean"),)
    assert methods(FIRST, **given, hires__profile="own", hires__gate=0.7) == (TGate(gate=0.3, cache="mean"),)
    assert methods(HIRES, **given, hires__profile="off") == ()


def test_knobs_of_methods_are_fields_with_their_defaults():
    for group in GROUPS:
        for name in group.fields:
            knob = KNOBS[f"{group.name}.{name}" if group.name else name]
            assert knob.default == group.described[name].default
            assert knob.rule["kind"] == group.described[name].metadata["kind"]
    hidden = {f"tgate.{name}" for name in ("sp_interval", "fi_interval", "warm_up", "gate_step", "offload")}
    assert not hidden & set(KNOBS)


def test_a_presets_methods_can_be_told_in_knobs(monkeypatch):
    from lib_accel.settings import presets

    monkeypatch.setitem(presets.PRESETS, "fast", {"sd1": (TGate(gate=0.5, cache="mean"),)})
    values = preset_values("fast", "sd1")
    assert (values["tgate.on"], values["tgate.gate"], values["tgate.cache"], values["agents.on"]) == (True, 0.5, "mean", False)
    assert set(values) == set(METHOD_KNOBS)


def test_an_interval_that_is_none():
    with pytest.raises(SettingError, match=r"guidance.sigma_low is 6 and guidance.sigma_high is 5.42; the first must be below the second"):
        resolve({"guidance.when": "outside", "guidance.sigma_low": 6}, "sd1")
    resolve({"guidance.on": False, "guidance.when": "outside", "guidance.sigma_low": 6}, "sd1")
    resolve({"guidance.when": "after", "guidance.sigma_low": 6}, "sd1")
