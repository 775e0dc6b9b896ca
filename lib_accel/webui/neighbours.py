"""Other extensions that rows cannot be taken from, known by what they are doing and not by being installed."""

from __future__ import annotations

from typing import Any

from torch import nn

TITLE = "regional prompter"
OFF = ("", "0", "false", "none")


def regional_prompter(p: Any, unet: nn.Module) -> bool:
    """Whether Regional Prompter is at work on this job: it divides cross-attention and batches by rows of its own counting."""
    return _is_asked_for(p) or any(_is_its_own(module) for name, module in unet.named_modules() if name.endswith("attn2"))


def _is_asked_for(p: Any) -> bool:
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ():
        if str(getattr(script, "name", None) or "").lower() != TITLE:
            continue
        # Its switch comes first.
        args = list(p.script_args or ())[script.args_from : script.args_to]
        return bool(args) and str(args[0]).lower() not in OFF
    return False


def _is_its_own(layer: nn.Module) -> bool:
    """Whether it put its forward there. An instance's forward as such says nothing: others leave theirs behind."""
    forward = vars(layer).get("forward")
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    return "regional-prompter" in getattr(code, "co_filename", "").replace("_", "-").lower()
