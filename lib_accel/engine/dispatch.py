"""What methods act on: which may go together, and at which sites of a U-Net call they are wanted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from ..core.fields import SettingError
from ..core.reasons import Reason
from ..core.sites import Site, out_of_reach
from .auto import AutoChoice
from .contract import HostTraits, Runner
from .subject import Subject


def runner_of(method: Any) -> Runner:
    """The settings object ``method`` at work. SettingError when it is none."""
    make = getattr(method, "runner", None)
    if make is None or isinstance(method, type):
        raise SettingError(f"{method!r} is no method; give settings objects such as TokenMerging(ratio=0.5).")
    return make()


def refuse_meetings(runners: list[Runner]) -> None:
    """SettingError when two methods would reduce or compute the same part in the same part of a pass."""
    for position, one in enumerate(runners):
        for other in runners[position + 1 :]:
            if one.exclusive or other.exclusive:
                # Where one of them acts is known at every step; the other stands down there.
                continue
            meet = max(one.window[0], other.window[0]) < min(one.window[1], other.window[1])
            parts = (one.reduces & other.reduces) | (one.computes & other.computes)
            if meet and parts:
                raise SettingError(
                    f"The windows {one.window} of {one.account.name} and {other.window} of {other.account.name} overlap, and both act "
                    f"on {', '.join(sorted(parts))}; give them windows that only touch, such as (0, 0.4) and (0.4, 1)."
                )


def wanted_sites(
    subject: Subject, runners: Iterable[Runner], traits: HostTraits, auto: AutoChoice, sample: torch.Tensor
) -> Iterator[tuple[Site, dict[str, list[Runner]], list[Runner]]]:
    """The sites that ``runners`` act on: (site, runners by part, runners that watch the block's tokens). Refusals go to their accounts."""
    for site in subject.sites:
        parts: dict[str, list[Runner]] = {}
        watchers = []
        for runner in runners:
            wanted = runner.wants(site, subject.finest)
            if not wanted:
                continue
            obstacle = out_of_reach(subject.unet, site) or ("attn1" in wanted and traits.obstacle(site))
            if obstacle:
                runner.account.stood_down(obstacle, site.name)
                continue
            refusal = auto.refusal(runner.account.name, site, sample)
            if refusal:
                runner.account.is_too_small(refusal, site.name)
                continue
            obstacles = {part: subject.backend.obstacle(site, part, runner.ability) for part in sorted(wanted)}
            for part, obstacle in obstacles.items():
                if obstacle:
                    runner.account.stood_down(obstacle, site.name)
                else:
                    parts.setdefault(part, []).append(runner)
            if runner.needs_tokens and not all(obstacles.values()):
                watchers.append(runner)
        for part, at_work in parts.items():
            parts[part] = _alone(site, part, at_work)
        if parts:
            yield site, parts, watchers


def _alone(site: Site, part: str, runners: list[Runner]) -> list[Runner]:
    """``runners`` of one layer, without those that an exclusive one keeps from changing it."""
    owner = next((runner for runner in runners if runner.exclusive), None)
    if owner is None:
        return runners
    kept = []
    for runner in runners:
        if runner is not owner and part in runner.reduces | runner.computes:
            runner.account.stood_down(Reason.of("edited", "{method} edits this layer", method=owner.account.name), site.name)
        else:
            kept.append(runner)
    return kept
