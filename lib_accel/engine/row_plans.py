"""Which rows of a U-Net call, or of a host's batch, run: composed of what all methods would drop."""

from __future__ import annotations

from collections.abc import Iterable

from ..backends.pipeline import TOO_MANY_CALLS
from ..core.reasons import Reason
from ..core.rows import RowPlan, guidance_kept
from .contract import Moment, Runner
from .guard import guarded

AND_PROMPTS = Reason.of("and_prompts", "with AND prompts only the WebUI can combine the rows that are left")
# Methods and the rows that each dropped.
Owners = tuple[tuple[Runner, tuple[int, ...]], ...]


def plan_rows(
    runners: Iterable[Runner], moment: Moment, by_host: bool = False, tiles: bool = False, adds_direction: bool = False
) -> tuple[RowPlan | None, Owners]:
    """Which rows of ``moment`` run, None for all, and the methods whose plans that is made of, with the rows that each dropped.

    A row is dropped as the first of them says, in an order of their own: those that change nothing of what they fill come first.

    by_host: the host drops the rows and combines what is left, so plans that only a host, or only our hooks, can carry out are told apart;
    it tells what it left out.
    adds_direction: such a host also adds what a method would put into the dropped rows.
    tiles: whether calls hold parts of pictures, of which some would be guided and others not.
    """
    wanted: list[tuple[RowPlan, Runner]] = []
    for runner in runners:
        plan = None
        with guarded([runner]):
            plan = runner.drop_rows(moment)
        if plan is None or moment.dropped:
            continue
        if moment.guided_because:
            runner.account.note(guidance_kept(moment.guided_because))
        elif by_host and runner.changes_fill and not adds_direction:
            continue
        elif not by_host and not plan.exact:
            runner.account.note(guidance_kept(AND_PROMPTS))
        elif tiles:
            runner.account.note(guidance_kept(TOO_MANY_CALLS))
        elif obstacle := None if by_host else moment.obstacle():
            runner.account.note(guidance_kept(obstacle))
        else:
            wanted.append((plan, runner))
    wanted.sort(key=lambda one: (one[1].changes_fill, -one[0].dropped, one[0].keep, one[1].account.name))
    composed: RowPlan | None = None
    owners: list[tuple[Runner, tuple[int, ...]]] = []
    for plan, runner in wanted:
        joined = plan if composed is None else _joined(composed, plan)
        dropped = tuple(sorted(set(composed.keep if composed else range(len(moment.rows))) - set(joined.keep)))
        if dropped:
            composed = joined
            owners.append((runner, dropped))
        else:
            runner.account.behind = owners[0][0].account.name
    return composed, tuple(owners)


def _joined(one: RowPlan, other: RowPlan) -> RowPlan:
    """``one``, and what ``other`` drops besides; ``one`` alone when either drops a row that the other fills others from."""
    sources = [one.keep[place] for place in one.fill]
    for row, place in enumerate(other.fill):
        if sources[row] == row:
            sources[row] = other.keep[place]
    if any(sources[source] != source for source in sources):
        return one
    keep = tuple(row for row, source in enumerate(sources) if row == source)
    return RowPlan(keep, tuple(keep.index(source) for source in sources), one.exact and other.exact)
