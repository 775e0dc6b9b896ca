"""One pipeline with one method, and what is not as it should be: counted by hooks, simulated by plain means, compared with the report."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from lib_accel import AgentAttention, GuidanceSkip, TGate, TokenDownsampling, TokenMerging, accelerated

METHODS = (
    TGate(gate=0.5),
    GuidanceSkip(when="after", after=0.5),
    TokenMerging(ratio=0.5, max_downsample=2),
    TokenDownsampling(deeper_factor=2),
    AgentAttention(sx=4, sy=4, ratio=0.4, agent_ratio=0.95, window=(0, 1)),
)


class Watch:
    """What really happens in a model's calls, by hooks on its first layer and on the projections of its attention layers.

    rows: of every call that ran. layers: effect -> names of the attn1 layers in which it was seen. crossed: calls of attn2's.
    """

    def __init__(self, model: nn.Module) -> None:
        self.rows: list[int] = []
        self.layers: dict[str, set[str]] = {"merging": set(), "downsampling": set(), "agents": set()}
        self.crossed = 0
        self._handles = [_first(model).register_forward_hook(self._count)]
        self._given: dict[str, int] = {}
        self._asked: dict[str, list[int]] = {}
        for name, module in model.named_modules():
            if name.endswith("attn1") and hasattr(module, "to_q"):
                self._handles += [
                    module.register_forward_pre_hook(functools.partial(self._begin, name), with_kwargs=True),
                    module.to_q.register_forward_pre_hook(functools.partial(self._queries, name)),
                    module.to_k.register_forward_pre_hook(functools.partial(self._keys, name)),
                ]
            elif name.endswith("attn2") and hasattr(module, "to_q"):
                self._handles.append(module.to_q.register_forward_pre_hook(self._cross))

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _count(self, module, args, out) -> None:
        self.rows.append(len(out))

    def _begin(self, name, module, args, kwargs) -> None:
        self._given[name], self._asked[name] = (args[0] if args else kwargs["hidden_states"]).shape[1], []

    def _queries(self, name, module, args) -> None:
        asked = self._asked.setdefault(name, [])
        asked.append(args[0].shape[1])
        if len(asked) == 1 and asked[0] < self._given.get(name, 0):
            self.layers["merging"].add(name)
        if len(asked) == 2 and asked[1] < asked[0]:
            self.layers["agents"].add(name)

    def _keys(self, name, module, args) -> None:
        asked = self._asked.get(name)
        if asked and args[0].shape[1] < asked[0]:
            self.layers["downsampling"].add(name)

    def _cross(self, module, args) -> None:
        self.crossed += 1


def _first(model: nn.Module) -> nn.Module:
    return model.conv_in if hasattr(model, "conv_in") else model.pos_embed


def watched(built: Any) -> tuple[torch.Tensor, Watch]:
    """The picture, and what was seen."""
    watch = Watch(built.model)
    try:
        return built.draw(), watch
    finally:
        watch.stop()


def simulated(built: Any, halved: set[int]) -> torch.Tensor:
    """The picture of which the calls ``halved`` are given the conditional half's prediction twice, by plain means."""
    calls = iter(range(10_000))

    def hook(module, args, out):
        if next(calls) not in halved:
            return None
        whole = (out[0] if isinstance(out, tuple) else out.sample).clone()
        half = len(whole) // 2
        whole[:half] = whole[half:]
        if isinstance(out, tuple):
            return (whole, *out[1:])
        return type(out)(sample=whole)

    handle = built.model.register_forward_hook(hook)
    try:
        return built.draw()
    finally:
        handle.remove()


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and (one.float() - other.float()).abs().max() <= 0.02 * other.float().abs().max().clamp(min=1)


def complaints(built: Any, method) -> list[str]:
    """What is not as it should be of one pipeline with one method."""
    built.plain = plain, before = built.plain or watched(built)
    with accelerated(built.pipe, method, auto=False) as accelerator:
        out, after = watched(built)
    report = accelerator.report().as_dict()
    (told,) = report["methods"]
    wrong = []

    def check(right: object, what: str) -> None:
        if not right:
            wrong.append(what)

    check(torch.equal(built.draw(), plain), "off is not exact")
    check(not told["failed"], f"failed: {told['failed']}")
    # A model of frames has several rows in its first layer for each of its calls' rows.
    frames = sum(before.rows) // max(1, report["rows"])
    check(sum(before.rows) == frames * report["rows"], f"{report['rows']} rows told, {sum(before.rows)} asked for")
    check(sum(after.rows) == frames * report["rows_run"], f"{report['rows_run']} rows told to have run, {sum(after.rows)} did")
    check(len(after.rows) == report["calls_run"], f"{report['calls_run']} calls told, {len(after.rows)} ran")
    saved = frames * told["evaluations_saved"]
    check(sum(before.rows) - sum(after.rows) == saved, f"{told['evaluations_saved']} evaluations saved, {saved} were")
    why = [*told["notes"], *told["stood_down"], *filter(None, (told["idle"], told["off"])), *report["stood_down"]]
    effects = {effect: count for effect, count in told["layers_by_effect"].items() if effect in after.layers}
    seen = {effect: len(layers) for effect, layers in after.layers.items() if layers}
    check(effects == seen, f"told {effects}, seen {seen}")
    check(told["layers"] or saved or why, "nothing done, and no reason told")
    if isinstance(method, GuidanceSkip):
        halved = {call for call, (rows, ran) in enumerate(zip(before.rows, after.rows)) if ran < rows}
        check(all(2 * after.rows[call] == before.rows[call] for call in halved), "other rows than a half were dropped")
        check(all(call >= len(before.rows) // 2 for call in halved), f"guidance was dropped early: {sorted(halved)}")
        check(near(out, simulated(built, halved) if halved else plain), "the picture is not that of the kept predictions")
    if isinstance(method, TGate):
        served = "cross-attention served" in told["layers_by_effect"]
        check(served == (after.crossed < before.crossed), f"served: {served}, {after.crossed} of {before.crossed} calls of attn2")
    elif not saved and not told["layers"]:
        check(torch.equal(out, plain), "nothing done, and another picture")
    return wrong
