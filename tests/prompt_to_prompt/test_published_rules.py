"""Alignment, windows, edits and local blend by the released rules, against the released codes' own outputs."""

import prompts
import pytest
import torch

from lib_accel.core.schedule import Step
from lib_accel.ops.attention_edits import CrossEdit, attend, edited_cross_attention
from lib_accel.prompt_to_prompt import Edit, local_blend, mix, published
from lib_accel.prompt_to_prompt.edits import Mixing
from lib_accel.prompt_to_prompt.windows import acts, token_switch, token_windows

DATA, TENSORS = prompts.golden("prompt_to_prompt/alignment_and_controllers")
BLOC, BLOC_TENSORS = prompts.golden("cross_attention_control/token_alignment_and_attention")
PAIRS = DATA["pairs"]
HEADS = 2


def step(index, total):
    return Step(index, total, index / total, "host")


def texts(pair, which):
    return pair[f"{which}_tokens"][1:-1]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["name"])
def test_words_are_looked_up_as_published(pair):
    for case in pair["word_inds"]:
        assert published.word_tokens(pair[case["text"]], texts(pair, case["text"]), case["word"]) == case["inds"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["name"])
def test_replacement_is_the_published_mapper(pair):
    given = (pair["source"], pair["target"], texts(pair, "source"), texts(pair, "target"))
    if pair["replacement_error"]:
        with pytest.raises(ValueError, match="it needs as many"):
            published.changed_words(*given)
        return
    matrix = published.replacement_matrix(published.changed_words(*given))
    assert torch.equal(matrix, TENSORS[f"{pair['name']}.replacement_mapper"][0])


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair["name"])
def test_refinement_is_the_published_mapper(pair):
    if pair["refinement_error"]:
        assert len(pair["target_ids"]) > 77  # The released code fails beyond one chunk.
        return
    partners = published.refinement_partners(pair["source_ids"], pair["target_ids"])
    assert torch.equal(partners, TENSORS[f"{pair['name']}.refinement_mapper"][0])
    assert torch.equal((partners >= 0).float(), TENSORS[f"{pair['name']}.refinement_alphas"][0])


def test_streams_give_the_same_as_texts():
    """What `mix` uses in place of counting letters."""
    for name in ("swap_same_len", "swap_tail_word", "swap_shorter_mid", "swap_two_words", "repeated_word"):
        pair = prompts.pair_of(PAIRS, name)
        streams = prompts.golden_stream(pair, "source"), prompts.golden_stream(pair, "target")
        assert torch.equal(published.replacement(*streams).matrix, TENSORS[f"{name}.replacement_mapper"][0])
        assert torch.equal(published.refinement(*streams).found, TENSORS[f"{name}.refinement_alphas"][0])


@pytest.mark.parametrize("case", DATA["alphas"], ids=lambda case: case["name"])
def test_windows_are_the_published_switches(case):
    total = case["num_steps"]
    tokenizer = prompts.Words(77, triceratops=4)
    _, *targets = (tokenizer(text) for text in case["prompts"])
    switches = []
    for target in targets:
        windows = token_windows(target, case["cross_replace_steps"], missing_ok=True)
        switches.append(torch.stack([token_switch(windows, step(index, total), "published") for index in range(total + 1)]))
    made = torch.stack(switches, 1)[:, :, None, None]
    if case["official_error"]:  # An integer; it is the fraction.
        assert made.all(dim=-1)[:, 0].flatten().tolist() == [True] * (total + 1)
    else:
        assert torch.equal(made, TENSORS[f"alpha.{case['name']}"])


def mixing_of(case):
    """The aligned edit of a controller's case."""
    tokenizer = prompts.Words(77, triceratops=4, neoclassical=2)
    source, target = (tokenizer(text) for text in case["prompts"])
    kind = {"replace": "replace", "refine": "refine", "reweight": "reweight"}[case["edit"]]
    weights = {case["word"]: case["value"]} if "word" in case else {}
    return mix(source, target, Edit(None, kind, weights), case["cross_replace_steps"], "published")


@pytest.mark.parametrize("case", DATA["controllers"], ids=lambda case: case["name"])
def test_edited_maps_are_the_published_ones(case):
    mixing, total = mixing_of(case), case["num_steps"]
    window = case["self_replace_steps"]
    window = (0.0, window) if isinstance(window, float) else tuple(window)
    for index in range(total):
        now = mixing.at(step(index, total), "published")
        maps = TENSORS[f"attn_in.B2.step{index}.layer2"]
        source, edited = maps[2 * HEADS : 3 * HEADS], maps[3 * HEADS :]
        if now is not None:
            edited = source @ now[0] + edited * now[1]
        torch.testing.assert_close(edited, expected(case, index, 2)[3 * HEADS :], atol=2e-6, rtol=1e-5)

        maps = TENSORS[f"attn_in.B2.step{index}.layer3"]
        replaced = acts(window, step(index, total), "published", cross=False)
        edited = maps[2 * HEADS : 3 * HEADS] if replaced else maps[3 * HEADS :]
        assert torch.equal(edited, expected(case, index, 3)[3 * HEADS :])
        assert torch.equal(maps[: 3 * HEADS], expected(case, index, 3)[: 3 * HEADS])


def expected(case, index, layer):
    return TENSORS.get(f"{case['name']}.step{index}.layer{layer}.out", TENSORS[f"attn_in.B2.step{index}.layer{layer}"])


@pytest.mark.parametrize("pair", [pair for pair in BLOC["pairs"] if f"{pair['name']}.mask" in BLOC_TENSORS], ids=lambda pair: pair["name"])
def test_sequences_match_as_in_cross_attention_control(pair):
    mask, partners = published.match_sequences(pair["source_ids77"], pair["target_ids77"])
    assert torch.equal(mask, BLOC_TENSORS[f"{pair['name']}.mask"])
    assert torch.equal(partners, BLOC_TENSORS[f"{pair['name']}.indices"])


NAMES = {pair["name"] for pair in BLOC["pairs"]}


def heads_of(name):
    return [BLOC_TENSORS[f"attention.{name}.{part}"] for part in "qkv"]


def assert_joined(out, name):
    """[1, heads, N, d] against a golden [1, N, heads * d]."""
    torch.testing.assert_close(out[0].transpose(0, 1).flatten(1)[None], BLOC_TENSORS[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", [case for case in BLOC["attention"] if case["pair"] in NAMES], ids=lambda case: case["name"])
def test_cross_attention_is_edited_as_in_cross_attention_control(case):
    pair = prompts.pair_of(BLOC["pairs"], case["pair"])
    mask, partners = published.match_sequences(pair["source_ids77"], pair["target_ids77"])
    take = torch.zeros(77, 77)
    take[partners, torch.arange(77)] = mask
    assert not case["token_weights"]
    ones, windows = torch.ones(77), torch.tensor([(0.0, 1.0)], dtype=torch.float64).repeat(77, 1)
    (q_s, k_s, _), (q, k, v) = heads_of("cross_src"), heads_of("cross_edit")
    edit = CrossEdit(0, q_s, k_s, *Mixing(take, 1 - mask, ones, windows).at(step(0, 50), "noise"))
    assert_joined(edited_cross_attention(q[None], k[None], v[None], [edit], 8**-0.5), f"{case['name']}.cross_edit")


@pytest.mark.parametrize("case", BLOC["attention"], ids=lambda case: case["name"])
def test_self_attention_is_replaced_as_in_cross_attention_control(case):
    (q_s, k_s, _), (q, k, v) = heads_of("self_src"), heads_of("self_edit")
    q, k = (q_s, k_s) if case["spatial"] else (q, k)
    assert_joined(attend(q[None], k[None], v[None], 8**-0.5), f"{case['name']}.self_edit")


@pytest.mark.parametrize("case", BLOC["windows"], ids=lambda case: f"{case['tokens_start']}-{case['spatial_start']}")
def test_windows_count_noise_as_in_cross_attention_control(case):
    for part in ("tokens", "spatial"):
        window = (case[f"{part}_start"], case[f"{part}_end"])
        assert [acts(window, step(index, case["steps"]), "noise") for index in range(case["steps"])] == case[part]


def test_local_blend_is_the_published_one():
    data, tensors = prompts.golden("prompt_to_prompt/local_blend")
    (case,) = data["cases"]
    blend = local_blend.AlignedBlend({})
    summed = torch.zeros(2, 16, 16)
    for index in range(case["steps"]):
        layers = [tensors[f"blend_v1.step{index}.{layer}"].float() for layer in ("down2", "down3", "up4", "up5", "up6")]
        # Token 5 is the word in both prompts; the data hold tokens 4 to 6.
        summed += torch.stack(layers).mean(0)[..., 1].unflatten(1, (16, 16))
        heat = torch.stack([summed, torch.zeros_like(summed)], 1)
        x, out = tensors[f"blend_v1.step{index}.x"], tensors[f"blend_v1.step{index}.out"]
        mask = local_blend.edit_mask(heat[0], heat[1], tuple(x.shape[-2:]), blend)
        torch.testing.assert_close(local_blend.blended(x[1], x[0], mask), out[1], atol=1e-6, rtol=0)
        assert torch.equal(x[0], out[0])
