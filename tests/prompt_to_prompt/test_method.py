"""The method on whole U-Nets: against plain attention whose maps are held and edited one by one, in float64."""

import contextlib

import guided
import models
import prompts
import pytest
import torch

from lib_accel import Edit, ImageEdit, PromptToPrompt, Refine, Replace, Reweight, Row, accelerated
from lib_accel.core.schedule import Step
from lib_accel.engine.accelerator import Accelerator
from lib_accel.ops.attention_edits import CrossEdit, edited_cross_attention
from lib_accel.prompt_to_prompt import mix
from lib_accel.prompt_to_prompt.alignment import refinement, replacement, same_tokens
from lib_accel.prompt_to_prompt.edits import equalizer, kind_of
from lib_accel.prompt_to_prompt.windows import token_switch, token_windows

TOKENS = prompts.Words(8, squirrel=2)
SOURCE = TOKENS("a red squirrel")
TOTAL = 5
EDITS = {
    "replace": (TOKENS("a red lion"), Replace("a red lion")),
    "refine": (TOKENS("a very red squirrel now"), Refine("a very red squirrel now")),
    "reweight": (SOURCE, Reweight({"red": -1.5, "squirrel": 3})),
    "replace and reweight": (TOKENS("a blue squirrel"), Replace("a blue squirrel").then(Reweight({"blue": 2}))),
    "refine and reweight": (TOKENS("one squirrel"), Refine("one squirrel", {"one": 0.5, "squirrel": 2})),
}
WINDOWS = {"replace": {"default_": 0.8, "lion": (0.2, 0.4)}, "refine": (0.2, 0.9)}
ROLES = ("uncond", "cond")


def step(index):
    return Step(index, TOTAL, index / TOTAL, "host")


def published_maps(source, edited, target, edit, windows, index):
    """[heads, N, K] edited as the paper writes it: reweight(replace or refine), mixed by the switch. No matrix A, no D."""
    kind = kind_of(SOURCE, target, edit)
    pair = {"replace": replacement, "refine": refinement, "reweight": same_tokens}[kind](SOURCE, target)
    new = torch.zeros_like(source)
    for column in range(edited.shape[-1]):
        if pair.found[column]:
            new[..., column] = sum(share * source[..., row] for row, share in enumerate(pair.matrix[:, column].double()))
        else:
            new[..., column] = edited[..., column]
    new = new * equalizer(target, edit.weights).to(new)
    switch = token_switch(token_windows(target, windows), step(index)).to(new)
    return switch * new + (1 - switch) * edited


class Reference:
    """Every attention layer of a U-Net computed by holding its maps, in the place of its forward."""

    def __init__(self, unet, rows, edits, self_source, self_end, self_layers=lambda level: True):
        self.rows, self.edits, self.self_source, self.self_end = rows, edits, self_source, self_end
        self.index, self.self_layers = 0, self_layers
        self.sites = Accelerator(unet).sites

    @contextlib.contextmanager
    def on(self):
        layers = [(site.part(part), part, site) for site in self.sites for part in ("attn1", "attn2")]
        for layer, part, site in layers:
            layer.forward = self.forward_of(layer, part, site)
        try:
            yield self
        finally:
            for layer, _, _ in layers:
                del layer.__dict__["forward"]

    def forward_of(self, layer, part, site):
        def forward(x, context=None, mask=None, encoder_hidden_states=None, **others):
            text = context if context is not None else encoder_hidden_states
            given = x if text is None else text
            q, k, v = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (layer.to_q(x), layer.to_k(given), layer.to_v(given)))
            out = self.cross(layer, q, k, v) if part == "attn2" else self.own(layer, q, k, v, site)
            out = out.transpose(1, 2).flatten(2)
            for module in layer.to_out if hasattr(layer.to_out, "__iter__") else [layer.to_out]:
                out = module(out)
            return out

        return forward

    def places(self):
        """Rows by image: (row of the edit, row of its source, number of the edit)."""
        at = {(row.role, row.image): index for index, row in enumerate(self.rows)}
        return [(at["cond", number + 1], at["cond", 0], number) for number in range(len(self.edits))]

    def own(self, layer, q, k, v, site):
        q, k, v = q.clone(), k.clone(), v.clone()
        if self.self_source and step(self.index).within((0, self.self_end)) and self.self_layers(site.level):
            for edit, source, _ in self.places():
                if self.self_source == "map":
                    q[edit], k[edit] = q[source], k[source]
                else:
                    v[edit] = v[source]
                    k[edit] = k[source] if self.self_source == "keys_values" else k[edit]
        return (q @ k.transpose(-1, -2) * layer.scale).softmax(-1) @ v

    def cross(self, layer, q, k, v):
        maps = (q @ k.transpose(-1, -2) * layer.scale).softmax(-1)
        edited = maps.clone()
        for row, source, number in self.places():
            target, edit, windows = self.edits[number]
            edited[row] = published_maps(maps[source], maps[row], target, edit, windows, self.index)
        return edited @ v


def method_of(edits, self_source="map", self_end=0.6, **more):
    images = [
        ImageEdit(number + 1, 0, (mix(SOURCE, target, edit, windows),), self_end) for number, (target, edit, windows) in enumerate(edits)
    ]
    return PromptToPrompt(images, self_source=self_source, **({"self_layers": "all"} | more))


def inputs(rows, index, dtype=torch.float64):
    """The same latents and text for the same row, whatever call it is in."""

    def seeded(*shape, seed):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)

    return models.SimpleNamespace(
        latents=torch.stack([seeded(4, 8, 8, seed=10 * index + row.image) for row in rows]),
        timestep=torch.full((len(rows),), 900.0 - 100 * index),
        text=torch.stack([seeded(8, models.WIDTH, seed=50 + 7 * row.image + 3 * row.part + 100 * (row.role == "cond")) for row in rows]),
    )


def predictions(unet, accelerator, rows, calls=None, dtype=torch.float64, steps=range(TOTAL)):
    """[steps, rows, ...], in ``rows``' order."""
    out = []
    for index in steps:
        if accelerator is not None:
            accelerator.step(index, TOTAL, [row for call in calls or [rows] for row in call])
        made = {}
        for call in calls or [rows]:
            made |= dict(zip(call, models.call(unet, inputs(call, index, dtype))))
        out.append(torch.stack([made[row] for row in rows]))
    return torch.stack(out)


def referred(unet, rows, edits, self_source="map", self_end=0.6, dtype=torch.float64, **more):
    out = []
    with Reference(unet, rows, edits, self_source, self_end, **more).on() as reference:
        for reference.index in range(TOTAL):
            out.append(models.call(unet, inputs(rows, reference.index, dtype)))
    return torch.stack(out)


def rows_for(images):
    """As the WebUI has them: conditional first."""
    return [Row(role, image) for role in ("cond", "uncond") for image in range(images)]


def edit_named(name):
    return (*EDITS[name], WINDOWS.get(name, 0.8))


@pytest.fixture(scope="module")
def unet():
    return models.diffusers_unet().double()


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_is_what_editing_the_maps_gives(unet, name):
    edits, rows = [edit_named(name)], rows_for(2)
    with accelerated(unet, method_of(edits)) as accelerator:
        made = predictions(unet, accelerator, rows)
    wanted, plain = referred(unet, rows, edits), predictions(unet, None, rows)
    torch.testing.assert_close(made, wanted, atol=1e-9, rtol=1e-9)
    assert (made - plain)[:4, 1].abs().amax(dim=(1, 2, 3)).min() > 1e-6  # Inside a window the edited row changes,
    torch.testing.assert_close(made[:, [0, 2, 3]], plain[:, [0, 2, 3]], atol=1e-12, rtol=1e-12)  # and no other.


@pytest.mark.parametrize("self_source", ["map", "value", "keys_values", None])
def test_three_prompts_and_every_source_of_self_attention(unet, self_source):
    edits, rows = [edit_named("replace"), edit_named("refine")], rows_for(3)
    with accelerated(unet, method_of(edits, self_source)) as accelerator:
        made = predictions(unet, accelerator, rows)
    torch.testing.assert_close(made, referred(unet, rows, edits, self_source), atol=1e-9, rtol=1e-9)


def test_layers_are_those_chosen(unet):
    edits, rows = [edit_named("replace")], rows_for(2)
    with accelerated(unet, method_of(edits, self_layers="1/2")) as accelerator:
        made = predictions(unet, accelerator, rows)
    torch.testing.assert_close(made, referred(unet, rows, edits, self_layers=lambda level: level >= 1), atol=1e-9, rtol=1e-9)
    by_effect = accelerator.report().as_dict()["methods"][0]["layers_by_effect"]
    assert by_effect == {"cross-attention": 7, "self-attention": sum(site.level >= 1 for site in accelerator.sites)}


@pytest.mark.parametrize("kind", ["ldm", "sgm", "diffusers", "diffusers-sdxl", "diffusers-sd2"])
def test_on_every_library(kind):
    unet = models.UNETS[kind]()
    edits, rows = [edit_named("replace"), edit_named("refine and reweight")], rows_for(3)
    with accelerated(unet, method_of(edits)) as accelerator:
        made = predictions(unet, accelerator, rows, dtype=torch.float32)
    wanted, plain = referred(unet, rows, edits, dtype=torch.float32), predictions(unet, None, rows, dtype=torch.float32)
    difference, effect = (made - wanted).abs().max(), (plain - wanted).abs().max()
    assert difference < 2e-4 * wanted.abs().max()
    assert difference < 0.01 * effect


def calls_of(name, rows):
    """The calls of a step, as hosts make them."""
    cond, uncond = rows[:3], rows[3:]
    return {
        "one": [rows],
        "uncond first": [uncond + cond],
        "apart": [cond, uncond],
        "one by one": [[row] for row in rows],
        "across": [rows[:2], rows[2:4], rows[4:]],
    }[name]


@pytest.mark.parametrize("calls", ["one", "uncond first", "apart", "one by one", "across"])
def test_whatever_calls_a_step_takes(unet, calls):
    edits, rows = [edit_named("replace"), edit_named("refine")], rows_for(3)
    with accelerated(unet, method_of(edits)) as accelerator:
        made = predictions(unet, accelerator, rows, calls_of(calls, rows))
    torch.testing.assert_close(made, referred(unet, rows, edits), atol=1e-9, rtol=1e-9)
    account = accelerator.report().as_dict()["methods"][0]
    assert not account["stood_down"]
    assert bool(account["cache_bytes"]) == (calls in ("one by one", "across"))  # Nothing is kept where source and edits share a call.


def test_an_edited_row_before_its_source_is_left_alone(unet):
    rows = rows_for(2)
    backwards = [[row] for row in reversed(rows)]
    with accelerated(unet, method_of([edit_named("replace")])) as accelerator:
        made = predictions(unet, accelerator, rows, backwards)
    torch.testing.assert_close(made, predictions(unet, None, rows), atol=1e-12, rtol=1e-12)
    assert set(guided.codes(accelerator.report().as_dict()["methods"][0])) == {"kept: no_source"}


def test_rows_nobody_labelled_are_left_alone_and_the_report_says_so(unet):
    with accelerated(unet, method_of([edit_named("replace")])) as accelerator:
        out = models.call(unet, inputs(rows_for(2), 0))
    assert torch.equal(out, models.call(unet, inputs(rows_for(2), 0)))
    assert guided.codes(accelerator.report().as_dict()["methods"][0]) == ["nothing_edited: rows_unknown"]


def test_and_prompts_are_edited_part_by_part(unet):
    """Part 1 of the edited picture takes from part 1 of the source; a part without a mixing keeps its own."""
    parts = [Row("cond", image, part) for image in range(2) for part in range(2)]
    rows = [*parts, Row("uncond", 0), Row("uncond", 1)]
    mixing = mix(SOURCE, EDITS["replace"][0], Edit())
    with accelerated(unet, PromptToPrompt([ImageEdit(1, 0, (None, mixing), 0.0)])) as accelerator:
        made = predictions(unet, accelerator, rows)
    plain = predictions(unet, None, rows)
    torch.testing.assert_close(made[:, [0, 1, 2, 4, 5]], plain[:, [0, 1, 2, 4, 5]], atol=1e-12, rtol=1e-12)
    assert (made - plain)[0, 3].abs().max() > 1e-6


def test_larger_sets_run_in_parts_that_carry_the_source_again(unet):
    """Nothing is taken from another pass."""
    both = [edit_named("replace"), edit_named("refine")]
    with accelerated(unet, method_of(both)) as accelerator:
        together = predictions(unet, accelerator, rows_for(3))
    alone = [Row("cond", 0), Row("cond", 2), Row("uncond", 0), Row("uncond", 2)]
    method = PromptToPrompt([ImageEdit(2, 0, method_of(both).edits[1].mixings, 0.6)], self_layers="all")
    with accelerated(unet, method) as accelerator:
        apart = predictions(unet, accelerator, alone)
    torch.testing.assert_close(apart[:, 1], together[:, 2], atol=1e-10, rtol=1e-10)


def test_texts_too_short_for_the_alignment_are_left_alone(unet):
    mixing = mix(TOKENS("one two three four five six seven"), TOKENS("one two three four five six eight"), Edit())
    rows = rows_for(2)
    with accelerated(unet, PromptToPrompt([ImageEdit(1, 0, (mixing,), 0.0)])) as accelerator:
        made = predictions(unet, accelerator, rows)
    torch.testing.assert_close(made, predictions(unet, None, rows), atol=1e-12, rtol=1e-12)
    (reason,) = accelerator.report().as_dict()["methods"][0]["reasons"]
    assert (reason["code"], reason["why"]["tokens"], reason["why"]["least"]) == ("kept", 8, 16)


def test_one_row_of_the_operator_in_float64():
    generator = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(3, 2, tokens, 4, generator=generator, dtype=torch.float64) for tokens in (6, 8, 8))
    take, keep = torch.randn(8, 8, generator=generator).double(), torch.randn(8, generator=generator).double()
    maps = (q @ k.transpose(-1, -2) * 0.5).softmax(-1)
    wanted = maps @ v
    wanted[1] = (maps[0] @ take + maps[1] * keep) @ v[1]
    torch.testing.assert_close(edited_cross_attention(q, k, v, [CrossEdit(1, q[0], k[0], take, keep)], 0.5), wanted)
    for edit, expected in (
        (CrossEdit(1, q[0], k[0], None, None), 0 * wanted[1]),
        (CrossEdit(1, q[0], k[0], take, None), maps[0] @ take @ v[1]),
    ):
        torch.testing.assert_close(edited_cross_attention(q, k, v, [edit], 0.5)[1], expected)
