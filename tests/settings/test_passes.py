"""What a pass runs: the order of methods, scale 1, the hires pass's own gate; and what of it can be told beforehand."""

import pytest

from lib_accel import AgentAttention, GuidanceSkip, SettingError, TGate, TokenDownsampling
from lib_accel.settings.job import METHOD_KNOBS, Settings, preset_values, resolve
from lib_accel.settings.passes import FIRST, HIRES, displaced, methods_for
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


@pytest.mark.parametrize(
    ("given", "place", "waits"),
    [
        ({"agents.end": 1}, FIRST, ["TokenMerging", "TokenDownsampling"]),
        ({"agents.end": 0.4}, FIRST, []),
        ({"agents.end": 0.4, "merging.start": 0.1, "merging.end": 0.3}, FIRST, ["TokenMerging"]),
        ({"agents.end": 1, "merging.on": False}, FIRST, ["TokenDownsampling"]),
        ({"agents.end": 1, "agents.on": False}, FIRST, []),
        ({"agents.end": 1, "hires.profile": "own", "hires.merging_ratio": 0.5}, HIRES, []),
        ({"agents.end": 1, "hires.profile": "own", "hires.agents": True}, HIRES, ["TokenMerging"]),
    ],
)
def test_who_waits_through_all_of_its_steps_is_known(given, place, waits):
    on = {"agents.on": True, "merging.on": True, "downsampling.on": True}
    settings = Settings({**BARE, **on, **given})
    assert [reason.values["method"] for reason in displaced(settings, place)] == waits
    runs = {type(method).__name__ for method in methods_for(settings, place)[0]}
    assert not runs & set(waits) and (AgentAttention.__name__ in runs or not waits)
    assert TokenDownsampling.__name__ in runs or "TokenDownsampling" in waits or place == HIRES
