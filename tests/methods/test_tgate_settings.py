"""Settings of T-GATE: bad ones get a sentence, good ones go round."""

import copy
import math
import pickle

import pytest

from lib_accel import SettingError, TGate

FRACTION = "it must be a number above 0 and up to 1, or None."


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *[({"gate": value}, ("TGate.gate", FRACTION)) for value in (0, -1, 1.5, math.nan, math.inf, "a", True)],
        *[({"gate_step": value}, ("TGate.gate_step", "whole number of 1 or more, or None.")) for value in (0, -3, 2.5, "4", True)],
        ({"gate": 0.5, "gate_step": 5}, ("TGate.gate is 0.5", "TGate.gate_step is 5", "give one of them")),
        ({"gate": 0.4, "gate_step": 5}, ("give one of them",)),
        *[({name: 0}, (f"TGate.{name} is 0", "whole number from 1 to 1000.")) for name in ("sp_interval", "fi_interval")],
        ({"warm_up": -1}, ("TGate.warm_up is -1", "from 0 to 1000.")),
        ({"cache": "max"}, ("TGate.cache is 'max'", "'cond', 'mean'")),
        ({"after_gate": None}, ("TGate.after_gate is None", "'cond', 'uncond'")),
    ],
)
def test_bad_settings_get_a_sentence(settings, words):
    with pytest.raises(SettingError) as error:
        TGate(**settings)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_settings_round_trip():
    from dataclasses import asdict, replace

    for config in (TGate(), TGate(gate=0.6), TGate(gate_step=7)):
        assert TGate(**asdict(config)) == config
    assert TGate().gate == 0.4
    assert replace(TGate(), gate_step=3) == TGate(gate_step=3)
    for copied in (pickle.loads(pickle.dumps(TGate())), copy.deepcopy(TGate())):
        assert copied == TGate() and replace(copied, gate_step=3) == TGate(gate_step=3)
