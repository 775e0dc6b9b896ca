"""Jobs of the host double in which Accel acts, the model that they act on, and what their accounts say as data."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}
AGENTS = {"enabled": True, "preset": "Custom", "auto": False, "agents.ratio": 0.3, "agents.end": 1}
# What `did` finds of a job with `ON`: effect, layers, (steps in which it acts, steps).
DONE = ("merging", 3, (5, 5))


def unet_of(host):
    return host.shared.sd_model.model.diffusion_model


def blocks(host):
    return [module for module in unet_of(host).modules() if type(module).__name__ == "BasicTransformerBlock"]


def data_of(done: Any) -> dict[str, Any]:
    """The account that a result carries."""
    return json.loads(done.js())["extra_generation_params"].get("Accel account") or {"passes": [], "notes": {}}


def methods_in(done: Any, place: str | None = None) -> list[dict[str, Any]]:
    """What each method did in the passes of ``place`` (None: of any): its name, layers by effect, steps, all steps, and rows left out."""
    found: dict[Any, dict[str, Any]] = defaultdict(lambda: {"layers": defaultdict(int), "steps": 0, "all": 0, "unguided": 0, "saved": 0})
    for entry in data_of(done)["passes"]:
        if place not in (None, entry["place"]):
            continue
        for method in entry["report"]["methods"]:
            one = found[entry["place"], method["method"], json.dumps(method["settings"], sort_keys=True)]
            one["method"] = method["method"]
            for effect, count in method["layers_by_effect"].items():
                one["layers"][effect] = max(one["layers"][effect], count)
            one["steps"] += method["steps"]
            one["all"] += entry["report"]["steps"]
            one["unguided"] += method["unguided_steps"]
            one["saved"] += method["evaluations_saved"]
    return list(found.values())


def did(
    done: Any, effect: str, layers: int, steps: tuple[int, int] | None = None, method: str | None = None, place: str | None = None
) -> bool:
    """Whether a method of a job had ``effect`` on so many layers, in ``steps``: those in which it acted, of all."""
    return any(
        one["layers"][effect] == layers and steps in (None, (one["steps"], one["all"])) and method in (None, one["method"])
        for one in methods_in(done, place)
    )


def evaluations_saved(done: Any) -> int:
    """How many evaluations of a row a job saved."""
    return sum(one["saved"] for one in methods_in(done))


def without_guidance(done: Any) -> tuple[int, int] | None:
    """(Steps without guidance, all steps) of a job's method that left guidance out; None when none did."""
    return next(((one["unguided"], one["all"]) for one in methods_in(done) if one["unguided"]), None)
