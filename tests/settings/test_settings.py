"""Bad values get one sentence that names the setting, the value and what is allowed; good ones their normal form."""

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_accel import AgentAttention, GuidanceSkip, Reweight, SettingError, TGate, TokenMerging
from lib_accel.core.fields import changed
from lib_accel.settings.infotext import from_infotext, to_infotext
from lib_accel.settings.job import Settings
from lib_accel.settings.schema import KNOBS

NAN, INF = float("nan"), float("inf")
FRACTION = "it must be a number from 0 to 1."
CELL = "it must be a whole number from 1 to 64."
WINDOW = "it must be two fractions (start, end) of the pass with 0 <= start < end <= 1."
BAD = [
    *[
        (m, "ratio", v, FRACTION)
        for m in (TokenMerging, AgentAttention)
        for v in (-0.1, 1.5, NAN, INF, -INF, "a", "0.5", True, None, [0.5], 10**400)
    ],
    *[(AgentAttention, "agent_ratio", v, FRACTION) for v in (-0.1, 1.01, NAN, False)],
    *[(m, s, v, CELL) for m in (TokenMerging, AgentAttention) for s in ("sx", "sy") for v in (0, -2, 1.5, 65, "2", True, None, NAN, INF)],
    *[(TokenMerging, "plan_every", v, "it must be a whole number from 1 to 1000.") for v in (0, 1001, 0.5)],
    *[(AgentAttention, "attn_precision", v, "it must be one of None, 'fp32'.") for v in ("fp16", "FP32", torch.float32, 32, False)],
    *[(TokenMerging, "max_downsample", v, "it must be one of 1, 2, 4, 8.") for v in (0, 3, 16, True, "1", None)],
    *[(TokenMerging, "plan", v, "it must be one of 'level', 'block'.") for v in ("", "Level", None, 1)],
    *[
        (TokenMerging, s, v, "it must be True or False.")
        for s in ("use_rand", "merge_attn", "merge_crossattn", "merge_mlp")
        for v in (1, 0, None, "yes")
    ],
    *[(AgentAttention, "k_scale2", v, "it must be a number from -10 to 10.") for v in (NAN, INF, "x", None, -10.5, 10**400)],
    *[(AgentAttention, "k_shortcut", v, "it must be a number of 0 or more.") for v in (-0.01, NAN, INF)],
    *[
        (m, "window", v, WINDOW)
        for m in (TokenMerging, AgentAttention)
        for v in (
            (0.6, 0.4),
            (0.4, 0.4),
            (-0.1, 0.5),
            (0.5, 1.1),
            (NAN, 1),
            (0, NAN),
            (0, INF),
            (0, 10**400),
            (0,),
            (0, 0.5, 1),
            0.4,
            None,
            "01",
            ("0", "1"),
            (False, True),
        )
    ],
]


@pytest.mark.parametrize("method, name, value, rule", BAD, ids=lambda v: getattr(v, "__name__", None) or repr(v)[:24])
def test_a_bad_value_gets_a_sentence(method, name, value, rule):
    with pytest.raises(SettingError) as caught:
        method(**{name: value})
    assert str(caught.value) == f"{method.__name__}.{name} is {value!r}; {rule}"


def test_setting_errors_are_value_errors():
    assert issubclass(SettingError, ValueError)


@pytest.mark.parametrize(
    "name, given_value, normal",
    [
        ("ratio", 1, 1.0),
        ("ratio", 0, 0.0),
        ("sx", 4.0, 4),
        ("window", [0, 0.4], (0.0, 0.4)),
        ("window", (0, 1), (0.0, 1.0)),
        ("max_downsample", 8, 8),
        ("plan_every", 1000, 1000),
    ],
)
def test_normal_forms(name, given_value, normal):
    value = getattr(TokenMerging(**{name: given_value}), name)
    assert value == normal and type(value) is type(normal)


def test_equal_settings_are_equal_however_written():
    assert TokenMerging(ratio=1, window=[0, 1]) == TokenMerging(ratio=1.0, window=(0.0, 1.0))
    assert hash(TokenMerging(ratio=1, window=[0, 1])) == hash(TokenMerging(ratio=1.0))


def test_changed_names_what_differs_from_the_defaults():
    assert changed(AgentAttention()) == {}
    assert changed(TokenMerging(ratio=0.3, use_rand=False)) == {"ratio": 0.3, "use_rand": False}


@pytest.mark.parametrize("method", [TokenMerging, AgentAttention])
def test_every_field_describes_itself(method):
    fields = method.__dataclass_fields__.values()
    for field in fields:
        assert {"kind", "label", "hint", "low", "high", "choices"} <= set(field.metadata), field.name
        assert field.metadata["hint"].strip() and "\n" not in field.metadata["hint"], field.name
    names = [field.metadata["label"] for field in fields]
    assert len(set(names)) == len(names)
    assert all(name.replace("-", "").replace("/", "").replace(" ", "").isalnum() for name in names)


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from([10**400, 1j, b"1", {}]),
    st.lists(st.floats(-1, 2) | st.none(), max_size=3),
)


@given(st.sampled_from([TokenMerging, AgentAttention]), st.data())
def test_anything_is_taken_or_refused_with_a_sentence(method, data):
    name = data.draw(st.sampled_from(sorted(method.__dataclass_fields__)))
    value = data.draw(ANYTHING)
    rule = method.__dataclass_fields__[name].metadata
    try:
        taken = getattr(method(**{name: value}), name)
    except SettingError as error:
        assert str(error).startswith(f"{method.__name__}.{name} is {value!r}; it must be ")
        assert "\n" not in str(error)
        return
    if rule["kind"] in ("number", "integer"):
        assert math.isfinite(taken) and taken == value
        assert (rule["low"] is None or rule["low"] <= taken) and (rule["high"] is None or taken <= rule["high"])
    elif rule["kind"] == "window":
        assert 0 <= taken[0] < taken[1] <= 1
    else:
        assert taken == value


@pytest.mark.parametrize("name", ["agents.ratio", "agents.sx", "agents.plan", "auto", "preset"])
def test_values_that_cannot_be_shown_get_a_sentence_too(name):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, 10**5000):
        with pytest.raises(SettingError, match=rf"^{name} is (of a kind that cannot be shown|1000).*; it must be "):
            KNOBS[name].read(value)


@pytest.mark.parametrize(
    "given_settings, settings",
    [
        (TokenMerging(ratio=np.float64(0.5), sx=np.int64(4), merge_attn=np.bool_(True)), TokenMerging(ratio=0.5, sx=4)),
        (TokenMerging(ratio=np.float32(0.5), matching=np.str_("local")), TokenMerging(ratio=0.5, matching="local")),
        (TokenMerging(window=(np.float64(0), np.float32(0.5))), TokenMerging(window=(0, 0.5))),
        (TokenMerging(window=np.array([0.0, 0.5])), TokenMerging(window=(0, 0.5))),
        (GuidanceSkip(order=np.int32(1)), GuidanceSkip(order=1)),
        (TGate(gate_step=np.uint8(3)), TGate(gate_step=3)),
        (Reweight({"cat": np.float32(2)}), Reweight({"cat": 2.0})),
    ],
)
def test_numbers_of_numpy_are_numbers(given_settings, settings):
    """They come out as Python's own: what is written to PNG info is the same."""
    assert given_settings == settings and repr(given_settings) == repr(settings)


def test_bad_numbers_of_numpy_get_a_sentence():
    with pytest.raises(SettingError, match=r"TokenMerging\.ratio is nan"):
        TokenMerging(ratio=np.float32("nan"))
    with pytest.raises(SettingError, match=r"TokenMerging\.sx is 2\.5"):
        TokenMerging(sx=np.float64(2.5))


@pytest.mark.parametrize("seed", range(200))
def test_png_info_gives_back_any_settings(seed):
    """Some of all, each at a bound, in between, or with more digits than a float has."""
    random = Random(seed)
    given = {"enabled": True, "preset": "custom"}
    for name, knob in random.sample(list(KNOBS.items()), 20):
        low, high = knob.rule.get("low"), knob.rule.get("high")
        if knob.kind == "flag":
            given.setdefault(name, random.random() < 0.5)
        elif knob.kind == "choice":
            given[name] = random.choice(knob.rule["choices"])
        elif knob.kind == "integer":
            given[name] = random.choice((low, 2**53 + 1 if high is None else high))
        elif knob.kind == "number":
            given[name] = random.choice((low, low + 1 / 3 if high is None else random.uniform(low, high)))
    try:
        settings = Settings(given)
    except SettingError:
        return  # A window that ends before it starts.
    assert dict(from_infotext(to_infotext(settings))) == dict(settings)
