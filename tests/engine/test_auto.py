"""`auto`: methods act only where a table says that they pay; the table is this machine's, built in, or given."""

import json
import re

import guided
import numpy as np
import pytest
import torch
from models import call, ldm_unet
from traces import differences, fingerprint

from lib_accel import AgentAttention, SettingError, Thresholds, TokenMerging, accelerated, apply_patch, patch_report, remove_patch
from lib_accel.engine import thresholds as module
from lib_accel.engine.thresholds import BUILT_IN, FEWEST, NEVER, own_path, read_own, thresholds_for, write_own

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_DATA", str(tmp_path))
    return tmp_path


def test_small_levels_stand_down_with_a_reason_and_the_picture_is_plain():
    unet = ldm_unet()
    plain = call(unet)
    with accelerated(unet, TokenMerging(), auto=True) as accelerator:
        assert torch.equal(call(unet), plain)
    report = accelerator.report()
    least = thresholds_for(CPU)[0].least["TokenMerging"]
    assert guided.layers_why(report.as_dict()["methods"][0]) == {("too_small", 256, least): 3}
    assert report.as_dict()["methods"][0]["too_small"] == 3


def test_a_given_table_decides_per_method_and_level_and_replays():
    unet = ldm_unet()
    methods = (TokenMerging(max_downsample=2),)
    with accelerated(unet, *methods, auto=Thresholds({"TokenMerging": 100})) as accelerator:
        first = call(unet)
    account = accelerator.report().as_dict()["methods"][0]
    assert account["layers"] == 3, "256 tokens at level 0 pay, 64 at level 1 do not"
    decided = json.loads(json.dumps(accelerator.report().as_dict()["auto"]))
    with accelerated(unet, *methods, auto=Thresholds(**decided)):
        assert torch.equal(call(unet), first)


def test_methods_that_are_not_listed_act():
    unet = ldm_unet()
    with accelerated(unet, AgentAttention(window=(0, 1)), auto=Thresholds({"TokenMerging": NEVER})) as accelerator:
        call(unet)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 3


def test_off_and_apply_patch_always_act(monkeypatch):
    monkeypatch.setenv("ACCEL_AUTO", "1")
    unet = ldm_unet()
    with accelerated(unet, TokenMerging(), auto=False) as accelerator:
        call(unet)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 3 and accelerator.report().as_dict()["auto"] is None
    apply_patch(unet)
    call(unet)
    assert patch_report(unet).as_dict()["methods"][0]["layers"] == 3
    remove_patch(unet)


def test_auto_is_the_default(monkeypatch):
    monkeypatch.delenv("ACCEL_AUTO")
    unet = ldm_unet()
    with accelerated(unet, TokenMerging()) as accelerator:
        call(unet)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 0


def test_built_in_tables_by_device_and_kernel():
    assert thresholds_for(CPU)[0].least == dict.fromkeys(BUILT_IN["cpu"], FEWEST)
    for fused, kind in ((True, "gpu"), (False, "gpu unfused")):
        least = {method: max(FEWEST, tokens) for method, tokens in BUILT_IN[kind].items()}
        assert thresholds_for(torch.device("cuda"), fused)[0].least == least and max(least.values()) > FEWEST
    assert thresholds_for(torch.device("mps"))[0].origin == "built in for gpu"


def test_a_calibration_is_kept_per_device_and_used():
    path = write_own(CPU, {"TokenMerging": 9000})
    assert path == own_path() and read_own(CPU) == ({"TokenMerging": 9000}, None)
    table, complaint = thresholds_for(CPU)
    assert table.least == {"TokenMerging": 9000} and complaint is None and "calibrated" in table.origin
    assert sorted(p.name for p in path.parent.iterdir()) == ["thresholds.json"]


def test_where_tokens_are_few_no_table_lets_methods_act():
    """They would save little there, and pictures would lose what the prompt says."""
    assert any(tokens < FEWEST for table in BUILT_IN.values() for tokens in table.values()), "they save time there"
    write_own(CPU, {"TokenMerging": 10})
    assert thresholds_for(CPU)[0].least == {"TokenMerging": FEWEST} and FEWEST > 32 * 32
    assert Thresholds({"TokenMerging": 10}).least == {"TokenMerging": 10}, "what somebody asked for"


def test_a_calibration_that_was_edited_on_windows_is_read():
    path = write_own(CPU, {"TokenMerging": 10})
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_own(CPU) == ({"TokenMerging": 10}, None)


def test_a_user_without_a_home_has_no_calibration(monkeypatch):
    """As in containers that run as a number nobody knows; methods act by the built-in table."""

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("ACCEL_DATA", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module.Path, "home", nowhere)
    unet = ldm_unet()
    with accelerated(unet, TokenMerging(), auto=True) as accelerator:
        call(unet)
    report = accelerator.report().as_dict()
    assert report["auto"]["least"] == dict.fromkeys(BUILT_IN["cpu"], FEWEST) and not report["stood_down"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"version": 1, "devices": {"x": {}}}', "another device"),
        ('{"version": 99, "devices": {}}', "version 99"),
        ('{"version": 1, "devices": {"CPU": {"TokenMerging": "many"}}}', "damaged"),
        ('{"version": 1, "devices": {"CPU": {"TokenMerging": -5}}}', "damaged"),
        ('{"version": 1, "devices": {"CPU": {"TokenMerging": Infinity}}}', "damaged"),
        ("[" * 100_000, "damaged"),
        (b"\xff\xfe\0{", "damaged"),
    ],
)
def test_a_calibration_that_does_not_fit_is_ignored_with_a_sentence(content, word):
    own_path().write_bytes(content if isinstance(content, bytes) else content.replace("CPU", module.device_name(CPU)).encode())
    unet = ldm_unet()
    with accelerated(unet, TokenMerging(), auto=True) as accelerator:
        call(unet)
    assert accelerator.report().as_dict()["auto"]["least"] == dict.fromkeys(BUILT_IN["cpu"], FEWEST)
    (sentence,) = accelerator.report().as_dict()["stood_down"]
    assert word in sentence and "ignored" in sentence
    write_own(CPU, {"TokenMerging": 1})
    assert read_own(CPU)[0] == {"TokenMerging": 1}, "calibrating again mends the file"


@pytest.mark.parametrize("auto", ["off", 1, 0, {"TokenMerging": 3}, 0.5], ids=str)
def test_a_bad_auto_gets_a_sentence_and_the_model_stays_untouched(auto):
    unet = ldm_unet()
    before = fingerprint(unet)
    with pytest.raises(SettingError, match=f"auto is {re.escape(repr(auto))}; it must be True, False, None or Thresholds"):
        accelerated(unet, TokenMerging(), auto=auto)
    assert not differences(before, fingerprint(unet))


def test_numpys_truth_is_truth():
    unet = ldm_unet()
    with accelerated(unet, TokenMerging(), auto=np.bool_(True)) as accelerator:
        call(unet)
    assert accelerator.report().as_dict()["auto"]["origin"] == "built in for cpu"


@pytest.mark.parametrize("tokens", ["many", -5, 2.5, None, True, float("nan")])
def test_a_bad_number_of_tokens_gets_a_sentence(tokens):
    with pytest.raises(SettingError, match=r"Thresholds.least\['TokenMerging'\] is .*; it must be a whole number of 0 or more"):
        Thresholds({"TokenMerging": tokens})


@pytest.mark.parametrize("name", ["TokenMergin", "Forecast", 3])
def test_a_name_of_no_method_on_tokens_gets_a_sentence(name):
    with pytest.raises(
        SettingError, match=rf"Thresholds\.least names {re.escape(repr(name))}; it must name .*: AgentAttention, TokenMerging"
    ):
        Thresholds({name: 100})


def test_a_calibration_may_name_methods_of_another_version():
    write_own(CPU, {"TokenMerging": 10, "TokenFolding": 20})
    assert read_own(CPU) == ({"TokenMerging": 10}, None)


def test_a_table_that_is_none_gets_a_sentence():
    with pytest.raises(SettingError, match=r"Thresholds\.least is .*; it must be a mapping"):
        Thresholds([100])
