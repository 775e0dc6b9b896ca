"""What a job's methods become in its circumstances: the host's token merging, samplers without fixed steps, refiners, neighbours."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...core.method import ROWS, TOKENS, Method
from ...core.reasons import Reason
from ..host import facts, neighbours
from ..host.levels import foreseen

NO_FIXED_STEPS = Reason.of("no_fixed_steps", "guidance is kept in every step: this sampler chooses the number of steps itself")
TOKENS_OFF = Reason.of("tokens_off", "methods on tokens off: {why}", why=facts.TOKEN_MERGING)
OFF_WITHOUT_STEPS = "off: this sampler chooses the number of steps itself"
OFF_BEHIND_SWITCH = ("off_behind_switch", "{method} is off: the model was changed in the middle of the pass")


def adapted(methods: tuple[Method, ...], p: Any, unet: Any, switched: bool) -> tuple[tuple[Method, ...], list[str]]:
    """What ``methods`` become in the circumstances of ``p``, and what is to be told of that."""
    told: list[str] = []
    if facts.merges_tokens(p) and any(method.declaration.acts_on == TOKENS for method in methods):
        methods = tuple(method for method in methods if method.declaration.acts_on != TOKENS)
        told.append(TOKENS_OFF)
    if facts.takes_steps_as_it_likes(p):
        becomes = [(method, method.without_fixed_steps()) for method in methods]
        off = _titles(method for method, after in becomes if after is None and method.declaration.acts_on != ROWS)
        told += [NO_FIXED_STEPS] * any(after != method and method.declaration.acts_on == ROWS for method, after in becomes)
        are = "are" if ", " in off else "is"
        told += [Reason.of("off_without_steps", f"{{methods}} {are} {OFF_WITHOUT_STEPS}", methods=off)] if off else []
        methods = tuple(after for _, after in becomes if after is not None)
    if switched:
        becomes = [(method, method.behind_switch()) for method in methods]
        told += [Reason.of(*OFF_BEHIND_SWITCH, method=_titles([method])) for method, after in becomes if after is None]
        methods = tuple(after for _, after in becomes if after is not None)
    neighbour = neighbours.counting_rows(p, unet) if any(method.declaration.known_rows for method in methods) else None
    if neighbour:
        sampler, counting = foreseen(facts.sampler_name(p)), [method for method in methods if method.declaration.known_rows]
        # Those that would stand aside all the same are not missed.
        off = _titles(method for method in counting if not method.stands_aside(methods, p.steps, sampler)) or _titles(counting)
        methods = tuple(method for method in methods if not method.declaration.known_rows)
        told.append(Reason.of("every_row", "{methods} off: {who} needs every row of every step", methods=off, who=neighbour))
    if facts.spares_memory(p):
        methods = tuple(method.sparing_memory() for method in methods)
    return methods, told


def _titles(methods: Iterable[Method]) -> str:
    return ", ".join(dict.fromkeys(method.declaration.title or type(method).__name__ for method in methods))
