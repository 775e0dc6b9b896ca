"""What people describe: edits, windows, layers, local blends. Bad values are a sentence each; good ones mean what they say."""

import math

import prompts
import pytest
import torch

from lib_accel import Edit, ImageEdit, LocalBlend, PromptToPrompt, Refine, Replace, Reweight, SettingError
from lib_accel.core.schedule import Step
from lib_accel.prompt_to_prompt import Layers, kind_of, mix, window_of

TOKENS = prompts.Words(8, squirrel=2)
SOURCE, LION = TOKENS("a red squirrel"), TOKENS("a red lion")
BAD = {
    "kind": lambda: Edit("a", "swap"),
    "prompt": lambda: Edit(3),
    "NaN": lambda: Reweight({"cat": math.nan}),
    "infinite": lambda: Replace("a", {"cat": math.inf}),
    "far too much": lambda: Reweight({"cat": 1e30}),
    "beyond every float": lambda: Reweight({"cat": -(10**400)}),
    "product too large": lambda: Reweight({"cat": 500}).then(Reweight({"cat": 500})),
    "text for a weight": lambda: Reweight({"cat": "much"}),
    "weights": lambda: Reweight(["cat"]),
    "reversed window": lambda: Replace("a", cross_replace=(0.8, 0.2)),
    "window beyond": lambda: Refine("a", self_replace=1.2),
    "window below": lambda: window_of("cross_replace", -0.1),
    "NaN window": lambda: window_of("cross_replace", math.nan),
    "word's window": lambda: Replace("a", cross_replace={"cat": (0.4, 1.4)}),
    "three": lambda: window_of("cross_replace", (0, 0.5, 1)),
    "layers": lambda: Layers("cross_layers", "left"),
    "a third": lambda: Layers("self_layers", "1/3"),
    "no layers": lambda: Layers("self_layers", ""),
    "layers of the method": lambda: PromptToPrompt([ImageEdit(1, 0, [None])], self_layers="fine"),
    "source": lambda: PromptToPrompt([ImageEdit(1, 0, [None])], self_source="queries"),
    "no edits": lambda: PromptToPrompt([]),
    "nothing for edits": lambda: PromptToPrompt(None),
    "a blend that is not aligned": lambda: PromptToPrompt([ImageEdit(1, 0, [None])], blend=LocalBlend("cat")),
    "itself": lambda: ImageEdit(1, 1, [None]),
    "edited twice": lambda: PromptToPrompt([ImageEdit(1, 0, [None]), ImageEdit(1, 0, [None])]),
    "from an edited one": lambda: PromptToPrompt([ImageEdit(1, 0, [None]), ImageEdit(2, 1, [None])]),
    "no words": lambda: LocalBlend(()),
    "threshold": lambda: LocalBlend("cat", threshold=2),
    "start": lambda: LocalBlend("cat", start=math.nan),
    "word of a blend": lambda: LocalBlend(None),
    "chain": lambda: Reweight({"cat": 2}).then(Replace("a dog")),
    "variant": lambda: mix(SOURCE, LION, Edit(), variant="new"),
    "other words re-weighted": lambda: mix(SOURCE, LION, Edit("a red lion", "reweight")),
    "a number of no words": lambda: TOKENS("").find(0),
    "weighted word": lambda: mix(SOURCE, LION, Reweight({"zebra": 2})),
    "windowed word": lambda: mix(SOURCE, LION, Replace("a red lion", cross_replace={"zebra": 0.3})),
    "blended word": lambda: LocalBlend("squirrel", "zebra").aligned([SOURCE, LION]),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_a_bad_value_is_a_sentence(make):
    with pytest.raises(SettingError) as caught:
        make()
    text = str(caught.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) > 30


def test_auto_decides_by_the_words():
    auto = Edit()
    assert kind_of(SOURCE, LION, auto) == "replace"
    assert kind_of(SOURCE, TOKENS("a very red squirrel"), auto) == "refine"
    assert kind_of(SOURCE, SOURCE, auto) == "reweight"
    assert kind_of(SOURCE, SOURCE, Edit(kind="refine")) == "refine"


def test_another_comma_moves_no_word():
    """The same words at other places: they are paired as words, not by their places."""
    comma = TOKENS("a red, squirrel")
    assert kind_of(SOURCE, comma, Edit()) == "replace"
    take, _ = mix(SOURCE, comma, Edit()).at(Step(0, 10, 0.0, "host"))
    assert torch.equal(take[SOURCE.find("squirrel")][:, comma.find("squirrel")], torch.eye(2))
    assert not take[:, 3].any()
    assert kind_of(SOURCE, SOURCE.padded(3), Edit()) == "reweight"


def test_weights_multiply_what_another_edit_gives():
    """A chained edit: R then the equalizer."""
    step = Step(0, 10, 0.0, "host")
    plain = mix(SOURCE, LION, Replace("a red lion")).at(step)
    chained = mix(SOURCE, LION, Replace("a red lion", {"lion": 2}).then(Reweight({"lion": -2, "red": 3}))).at(step)
    factors = torch.ones(8)
    factors[LION.find("lion")], factors[LION.find("red")] = -4, 3
    assert torch.equal(chained[0], plain[0] * factors)
    assert torch.equal(chained[1], plain[1] * factors)


def test_windows_by_word():
    mixing = mix(SOURCE, LION, Edit(), {"default_": 0.8, "lion": (0.2, 0.4)})
    lion = LION.find("lion")
    for index in range(10):
        now = mixing.at(Step(index, 10, index / 10, "host"))
        taken = torch.zeros(8) if now is None else now[0].sum(0)
        assert bool(taken[lion].any()) == (2 <= index < 4)
        assert bool(taken[1]) == (index < 8)
        if now is not None:
            assert now[1][lion].tolist() == [float(not 2 <= index < 4)]


def test_nothing_is_edited_outside_windows():
    mixing = mix(SOURCE, LION, Edit(), (0.5, 0.5))
    assert all(mixing.at(Step(index, 10, index / 10, "host")) is None for index in range(10))


def test_layers_in_words():
    assert all(Layers("x", "all").hold(place, 3) for place in ("down", "mid", "up"))
    assert Layers("x", "up+mid").hold("mid", 0) and not Layers("x", "up+mid").hold("down", 0)
    assert [Layers("x", "1/4").hold("up", level) for level in range(4)] == [False, False, True, True]
    assert [Layers("x", "=1/2").hold("up", level) for level in range(4)] == [False, True, False, False]
    assert Layers("x", "256").hold("up", 0, 256) and not Layers("x", "256").hold("up", 0, 257)
    assert [Layers("x", "256").hold("up", level, 999, coarsest=2) for level in range(3)] == [False, False, True]


def test_a_local_blend_finds_each_prompts_words():
    blend = LocalBlend("squirrel", ("lion", "bear"), subtract="red").aligned([SOURCE, LION, TOKENS("a red bear")])
    assert blend.columns[0, 0].blend == (3, 4)
    assert blend.columns[1, 0].blend == blend.columns[2, 0].blend == (3,)
    assert blend.columns[0, 0].subtract == (2,)


def test_hosts_pad_texts_beyond_what_was_aligned():
    mixing = mix(SOURCE, LION, Edit()).fitted(16)
    take, keep = mixing.at(Step(0, 10, 0.0, "host"))
    assert take.shape == (16, 16)
    assert take[8:].sum() == take[:, 8:].sum() == 0
    assert keep[8:].tolist() == [1] * 8
    assert mixing.fitted(8) is None
