"""Other extensions between the sampler and the U-Net: who makes the calls, who reads or combines what they predicted.

Known by what stands in the host's places; what a job that is over left behind, or a script that says it is off, counts for nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from modules import script_callbacks
from torch import nn

from ...backends.known import home_of, own_forward
from ...core.reasons import Reason

# Puts its function on every denoiser. Without AND that only calls the one below.
OF_AND_PROMPTS = "lib_neutral_prompt"
# How scripts call their own switch.
SWITCHES = ("active", "enabled")


def caller(denoiser: Any) -> Reason | None:
    """Who calls the U-Net in the sampler's place (a clause): by tiles, or by some of a video's frames at a time."""
    places = ((getattr(denoiser, "inner_model", None), "forward"), (getattr(denoiser.p, "sd_model", None), "apply_model"))
    functions = (own_forward(holder, name) for holder, name in places if hasattr(holder, "__dict__"))
    function = next((function for function in functions if function is not None), None)
    return function and Reason.of("called_by", "{who} calls the U-Net in its own way", who=_file_of(function))


def combiner(denoiser: Any, parts: Sequence[int]) -> Reason | None:
    """Who combines the rows' predictions in the host's place (a clause). parts: AND sub-prompts of each picture."""
    function = denoiser.combine_denoised
    while function is not None and home_of(function).startswith(OF_AND_PROMPTS) and all(count == 1 for count in parts):
        function = getattr(function, "keywords", {}).get("original_function")
    if function is None or home_of(function).partition(".")[0] in ("modules", "lib_accel"):
        return None
    return Reason.of("combined_by", "{who} combines predictions in its own way", who=_file_of(function))


def reader() -> Reason | None:
    """Who is shown the predictions of all rows before they are combined (a clause): masks, or guidance of a kind of its own."""
    who = next(_readers(), None)
    return who and Reason.of("read_by", "{who} works on the predictions of all rows", who=who)


def _readers() -> Iterator[str]:
    for entry in getattr(script_callbacks, "callback_map", {}).get("callbacks_cfg_denoised", ()):
        function = getattr(entry, "callback", None)
        if function is not None and not _is_off(function):
            yield _file_of(function)


def _is_off(function: Any) -> bool:
    """Whether the script of a callback says that it is off; many leave theirs in place after their first job."""
    owner = getattr(function, "__self__", None)
    said = [value for name, value in getattr(owner, "__dict__", {}).items() if name in SWITCHES and isinstance(value, bool)]
    if not said:
        names = getattr(getattr(function, "__func__", function), "__globals__", {})
        said = [value for name, value in names.items() if name.endswith("_enabled") and isinstance(value, bool)]
    return bool(said) and not any(said)


def _file_of(function: Any) -> str:
    """Whose function it is: the file of the class that it is a method of, or else the one that it stands in, not that of a decorator."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, nn.Module):
        home = home_of(inspect.unwrap(getattr(function, "__func__", function)))
    else:
        home = type(owner).__module__
    return home.removesuffix(".py").rpartition(".")[2]
