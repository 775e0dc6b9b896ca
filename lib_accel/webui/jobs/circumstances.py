"""What a job's methods become in its circumstances: the host's token merging, samplers without fixed steps, refiners, neighbours."""

from __future__ import annotations

from typing import Any

from ...core.method import ROWS, TOKENS, Method
from ...core.reasons import Reason
from ..host import facts, neighbours

NO_FIXED_STEPS = Reason.of("no_fixed_steps", "guidance is kept in every step: this sampler chooses the number of steps itself")
TOKENS_OFF = Reason.of("tokens_off", "methods on tokens off: {why}", why=facts.TOKEN_MERGING)
OFF_WITHOUT_STEPS = ("off_without_steps", "{method} is off: this sampler chooses the number of steps itself")
OFF_BEHIND_SWITCH = ("off_behind_switch", "{method} is off: the model was changed in the middle of the pass")


def adapted(methods: tuple[Method, ...], p: Any, unet: Any, switched: bool) -> tuple[tuple[Method, ...], list[str]]:
    """What ``methods`` become in the circumstances of ``p``, and what is to be told of that."""
    told: list[str] = []
    if facts.merges_tokens(p) and any(method.declaration.acts_on == TOKENS for method in methods):
        methods = tuple(method for method in methods if method.declaration.acts_on != TOKENS)
        told.append(TOKENS_OFF)
    changes = [(Method.without_fixed_steps.__name__, _without_steps)] if facts.takes_steps_as_it_likes(p) else []
    changes += [(Method.behind_switch.__name__, _behind_switch)] if switched else []
    for change, said in changes:
        becomes = [(method, getattr(method, change)()) for method in methods]
        told += filter(None, (said(method, after) for method, after in becomes))
        methods = tuple(after for _, after in becomes if after is not None)
    neighbour = neighbours.counting_rows(p, unet) if any(method.declaration.known_rows for method in methods) else None
    if neighbour:
        off = ", ".join(dict.fromkeys(_title(method) for method in methods if method.declaration.known_rows))
        methods = tuple(method for method in methods if not method.declaration.known_rows)
        told.append(Reason.of("every_row", "{methods} off: {who} needs every row of every step", methods=off, who=neighbour))
    if facts.spares_memory(p):
        methods = tuple(method.sparing_memory() for method in methods)
    return methods, told


def _without_steps(method: Method, after: Method | None) -> str | None:
    if method.declaration.acts_on == ROWS:
        return NO_FIXED_STEPS if after != method else None
    return Reason.of(*OFF_WITHOUT_STEPS, method=_title(method)) if after is None else None


def _behind_switch(method: Method, after: Method | None) -> str | None:
    return Reason.of(*OFF_BEHIND_SWITCH, method=_title(method)) if after is None else None


def _title(method: Method) -> str:
    return method.declaration.title or type(method).__name__
