"""Other extensions that rows cannot be taken from, known by what they are doing and not by being installed."""

from __future__ import annotations

import re
import sys
from typing import Any

from torch import nn

from ...backends.known import forward_in_class
from ...core.reasons import Reason

TITLE = "regional prompter"
# Where AnimateDiff's layers come from: they look at the rows of a batch as frames of one video.
MOTION = "motion_module"
OFF = ("", "0", "false", "none")
CHANGING = Reason.of("lora_changes", "a LoRA's weight changes from step to step")
# LoRA Control writes weight@step, LoRA Block Weight start=, stop= or step=.
_BY_STEP = re.compile(r"<(?:lora|lyco):[^>]*(?:@|:\s*(?:start|stop|step)\s*=)[^>]*>", re.IGNORECASE)


def counting_rows(p: Any, unet: nn.Module) -> str | None:
    """Who counts on every row of a job's batches, by name; None when nobody does."""
    if regional_prompter(p, unet):
        return "Regional Prompter"
    if any(type(module).__module__ == MOTION for module in unet.modules()):
        return "AnimateDiff"
    step_cache = forward_in_class(unet)
    if step_cache:
        return step_cache.removesuffix(".py")
    return "ControlNet's reference" if controlnet_reference(unet) else None


def regional_prompter(p: Any, unet: nn.Module) -> bool:
    """Whether Regional Prompter is at work on this job: it divides cross-attention and batches by rows of its own counting."""
    layers = (module for name, module in unet.named_modules() if name.endswith("attn2"))
    return _is_asked_for(p) or any(_comes_from("regional-prompter", layer, "forward") for layer in layers)


def controlnet_reference(unet: nn.Module) -> bool:
    """Whether ControlNet's reference modes (or its style align) are at work: they run blocks on as many rows as the first step had."""
    return any(_comes_from("controlnet", module, "_forward") for module in unet.modules())


def controlnet_units(p: Any, params: Any) -> tuple[bool, ...]:
    """Which of ControlNet's units act in the step of these callback parameters, as its own window says."""
    done = params.sampling_step / max(params.total_sampling_steps, 1)
    units: list[bool] = []
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ():
        for unit in getattr(getattr(script, "latest_network", None), "control_params", None) or ():
            begin, end = getattr(unit, "start_guidance_percent", 0.0), getattr(unit, "stop_guidance_percent", 1.0)
            units.append(begin <= done <= end)
    return tuple(units)


def stages_now(unet: nn.Module) -> tuple[int, ...]:
    """Which modules the U-Net's stages are at this moment: Kohya Hires.fix puts scalers in the place of some until a step of its own."""
    return tuple(id(stage) for name in ("input_blocks", "output_blocks") for stage in getattr(unet, name, ()))


def loras_at_work() -> tuple[tuple[str, str], ...]:
    """Which LoRAs are in the U-Net's layers now, and how strongly: what the host's own module for them compares before each layer runs."""
    loaded = getattr(sys.modules.get("networks"), "loaded_networks", None) or ()
    return tuple((str(getattr(one, "name", "")), str(getattr(one, "unet_multiplier", ""))) for one in loaded)


def changing_loras(p: Any) -> str | None:
    """Why steps are not like each other (a clause), or None: a prompt asks for weights of a LoRA by step."""
    prompts = getattr(p, "all_prompts", None) or p.prompt
    prompts = [prompts] if isinstance(prompts, str) else prompts or ()
    return CHANGING if any(_BY_STEP.search(str(prompt)) for prompt in prompts) else None


def _is_asked_for(p: Any) -> bool:
    for script in getattr(getattr(p, "scripts", None), "alwayson_scripts", None) or ():
        if str(getattr(script, "name", None) or "").lower() != TITLE:
            continue
        # Its switch comes first.
        args = list(p.script_args or ())[script.args_from : script.args_to]
        return bool(args) and str(args[0]).lower() not in OFF
    return False


def _comes_from(folder: str, module: nn.Module, attribute: str) -> bool:
    """Whether the extension of that folder put its function there. A function as such says nothing: others leave theirs behind."""
    function = vars(module).get(attribute)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return folder in getattr(code, "co_filename", "").replace("_", "-").lower()
