"""Every pipeline class of diffusers with a transformer that can be built tiny: a forecast is what was counted, off is exact."""

import diffusers
import pytest
import torch
import transformers_tiny as tiny
from torch import nn

from lib_accel import Forecast, TGate, TokenMerging, accelerated

# Step 5 of 8 is served, the two last run.
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)
SERVED = 5
SHARDS = 8
# What follows would say nothing if these were not built.
KNOWN = (
    "FluxPipeline",
    "StableDiffusion3Pipeline",
    "QwenImagePipeline",
    "WanPipeline",
    "LTXPipeline",
    "Lumina2Pipeline",
    "ZImagePipeline",
    "ChromaPipeline",
    "AuraFlowPipeline",
    "HunyuanVideoPipeline",
    "CogVideoXPipeline",
    "CogView4Pipeline",
    "Flux2Pipeline",
    "Flux2KleinPipeline",
)
# Their model's output has room for a memory, which a plain call does not fill.
SERVED_BESIDE_A_MEMORY = ("Flux2Pipeline", "Flux2KleinPipeline")


class Watch:
    """How often a model really ran, by a hook on its first layer that runs once in each of its calls; and what it returned."""

    def __init__(self, model: nn.Module) -> None:
        self.asked, self.seen, self.outputs = 0, {}, []
        self._handles = [model.register_forward_hook(self._call, with_kwargs=True)]
        for name, module in model.named_modules():
            if not list(module.children()):
                self._handles.append(module.register_forward_hook(lambda *_, name=name: self._count(name)))

    def _count(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1

    def _call(self, module, args, kwargs, out):
        self.asked += 1
        self.outputs.append(out[0] if isinstance(out, (tuple, list)) else out.sample)

    def stop(self):
        for handle in self._handles:
            handle.remove()


def watched(built):
    watch = Watch(built.model)
    try:
        return built.draw(), watch
    finally:
        watch.stop()


def once(plain: Watch) -> str:
    """A layer that runs once in each call."""
    return next(name for name, count in plain.seen.items() if count == plain.asked)


def along(noise: float) -> float:
    """What velocities are continued along, from the specification: sigma + sigma^2 / 2 at sigma = s / (1 - s)."""
    return ((1 / (1 - noise)) ** 2 - 1) / 2


def simulated(built, plain: Watch, served: int) -> torch.Tensor:
    """The latents where the predictions of step ``served`` lie on the lines through those of the two steps before, by plain means."""
    calls, each, outputs = iter(range(10_000)), plain.asked // tiny.STEPS, []

    def hook(module, args, out):
        call, value = next(calls), out[0] if isinstance(out, (tuple, list)) else out.sample
        listed = isinstance(value, list)
        outputs.append(torch.stack(value) if listed else value.clone())
        if call // each != served:
            return None
        scheduler = built.pipe.scheduler
        noises = [1 - s if getattr(scheduler.config, "invert_sigmas", False) else s for s in scheduler.sigmas.double().tolist()]
        now, newest, before = (along(noises[step]) for step in (served, served - 1, served - 2))
        a, b = outputs[call - each], outputs[call - 2 * each]
        line = a + (now - newest) / (newest - before) * (a - b)
        line = list(line) if listed else line
        return (line,) if isinstance(out, tuple) else type(out)(sample=line)

    handle = built.model.register_forward_hook(hook)
    try:
        return built.draw()
    finally:
        handle.remove()


def near(one, other) -> bool:
    return one.shape == other.shape and (one.float() - other.float()).abs().max() <= 1e-3 * other.float().abs().max().clamp(min=1)


def complaints(built) -> tuple[list[str], list[int]]:
    """What is not as it should be of a pipeline with a forecast, and the steps that it told to be forecast."""
    plain, before = watched(built)
    layer = once(before)
    with accelerated(built.pipe, FREE, TokenMerging(), TGate()) as accelerator:
        out, after = watched(built)
    report = accelerator.report().as_dict()
    told, *inside = report["methods"]
    wrong = []

    def check(right, what):
        if not right:
            wrong.append(what)

    check(torch.equal(built.draw(), plain), "off is not exact")
    check(not any(name in built.model.__dict__ for name in ("forward", "__deepcopy__")), "something is left on the model")
    ran = after.seen.get(layer, 0)
    check(report["unet_calls"] == before.asked, f"{report['unet_calls']} calls told, {before.asked} made")
    check(report["calls_run"] == ran, f"{report['calls_run']} calls told to have run, {ran} did")
    check(report["calls_served"] == before.asked - ran, f"{report['calls_served']} calls told to be served, {before.asked - ran} were")
    check(not told["failed"], f"failed: {told['failed']}")
    steps = sorted({step for one in told["served"] for step in one["steps"]})
    codes = [reason["code"] for reason in told["reasons"]]
    if not steps:
        check(torch.equal(out, plain), "nothing served, and other latents")
        check(codes, "nothing served, and no reason told")
    else:
        check(steps == [SERVED], f"served {steps}")
        check(report["calls_served"] * tiny.STEPS == before.asked, "not all calls of the step were served")
        check(out.isfinite().all() and not torch.equal(out, plain), "the latents are not finite, or the plain ones")
        if "FlowMatch" in type(built.pipe.scheduler).__name__:
            check(near(out, simulated(built, before, SERVED)), "the latents are not those of the forecast")
    for one in inside:
        (reason,) = one["reasons"]
        check(reason["code"] == "whole_calls_only" and reason["model"] == type(built.model).__name__, f"{one['method']}: {reason}")
    return wrong, steps or codes


@pytest.mark.parametrize("shard", range(SHARDS))
def test_what_is_told_is_what_was_counted(shard):
    """A class that cannot be built, or whose plain call fails, has nothing to compare with."""
    diffusers.logging.set_verbosity_error()
    wrong = []
    for name in sorted(tiny.found())[shard::SHARDS]:
        built, why = tiny.build(name)
        if built is None:
            assert name not in KNOWN, f"{name}: {why}"
            continue
        found, did = complaints(built)
        if name in SERVED_BESIDE_A_MEMORY and did != [SERVED]:
            found.append(f"it was not served: {did}")
        wrong += [f"{name}: {what}" for what in found]
    assert not wrong, "\n".join(wrong)
