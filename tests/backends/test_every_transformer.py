"""Every pipeline class of diffusers with a transformer that can be built tiny: a forecast is what was counted, off is exact."""

import importlib.util
import pathlib

import diffusers
import pytest
import torch
import transformers_tiny as tiny
from torch import nn

from lib_accel import Forecast, TGate, TokenMerging, accelerated
from lib_accel.backends.transformer import TransformerBackend

# Step 5 of 8 is served, the two last run.
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)
SERVED = 5
SHARDS = 8
# What follows would say nothing if these were not built and served. Flux.2's output has room for a memory that a plain call does not fill.
KNOWN = (
    "FluxPipeline",
    "FluxKontextPipeline",
    "StableDiffusion3Pipeline",
    "QwenImagePipeline",
    "QwenImageEditPlusPipeline",
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
# What the page tells of each kind of pipeline.
ONE_TEXT, OWN_CALLS, ONE_CALL = (f"flow matching, {texts}" for texts in ("one text", "each text in its own call", "all texts in one call"))
NOISE, NOTHING = "noise or v prediction", "nothing is forecast"
# Some classes cannot be built without these, which the page does not count on.
MORE = any(importlib.util.find_spec(name) for name in ("torchvision", "ftfy"))
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "python.md"


def told() -> tuple[str, dict[str, str]]:
    """(the version of diffusers, class -> what its row says) of the page's table of pipelines, whose names leave out ``Pipeline``."""
    table = PAGE.read_text(encoding="utf-8").partition("| pipelines of diffusers ")[2].partition("\n\n")[0]
    version, _, rows = table.partition(",")
    kinds = {}
    for row in rows.splitlines()[2:]:
        names, kind = (cell.strip() for cell in row.strip("| ").split(" | ")[:2])
        kinds |= {f"{name.strip()}Pipeline": kind for name in names.split(",")}
    return version, kinds


class Watch:
    """How often a model really ran, by a hook on its first layer that runs once in each of its calls; and what it returned."""

    def __init__(self, model: nn.Module) -> None:
        self.asked, self.given, self.seen, self.outputs = 0, ((), {}), {}, []
        self._handles = [model.register_forward_hook(self._call, with_kwargs=True)]
        for name, module in model.named_modules():
            if not list(module.children()):
                self._handles.append(module.register_forward_hook(lambda *_, name=name: self._count(name)))

    @property
    def each(self) -> int:
        """Calls in a step. There are pipelines that leave out the last step."""
        return max(1, round(self.asked / tiny.STEPS))

    def _count(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1

    def _call(self, module, args, kwargs, out):
        self.asked += 1
        self.given = args, kwargs
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
    calls, each, outputs = iter(range(10_000)), plain.each, []

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


def forms(model: nn.Module, plain: Watch) -> list[tuple[type, type]]:
    """(what a call returns, what one that is served returns) with and without ``return_dict``."""
    backend, (args, kwargs), found = TransformerBackend(), plain.given, []
    for asked in (True, False):
        given = {**kwargs, "return_dict": asked}
        with torch.no_grad():
            out = model(*args, **given)
        found.append((type(out), type(backend.output_of(model, args, given, backend.prediction_of(out)))))
    return found


def complaints(built) -> tuple[list[str], str]:
    """What is not as it should be of a pipeline with a forecast, and of what kind it is, in the page's words."""
    plain, before = watched(built)
    layer = once(before)
    with accelerated(built.pipe, FREE, TokenMerging(), TGate()) as accelerator:
        out, after = watched(built)
    report = accelerator.report().as_dict()
    forecast, *inside = report["methods"]
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
    check(not forecast["failed"], f"failed: {forecast['failed']}")
    steps = sorted({step for one in forecast["served"] for step in one["steps"]})
    codes = [reason["code"] for reason in forecast["reasons"]]
    if not steps:
        check(torch.equal(out, plain), "nothing served, and other latents")
        check(codes, "nothing served, and no reason told")
    else:
        check(steps == [SERVED], f"served {steps}")
        check(report["calls_served"] == before.each, "not all calls of the step were served")
        check(out.isfinite().all() and not torch.equal(out, plain), "the latents are not finite, or the plain ones")
        check(all(real is served for real, served in forms(built.model, before)), "what is served has another form than what is returned")
        if "FlowMatch" in type(built.pipe.scheduler).__name__:
            check(near(out, simulated(built, before, SERVED)), "the latents are not those of the forecast")
    for one in inside:
        (reason,) = one["reasons"]
        check(reason["code"] == "whole_calls_only" and reason["model"] == type(built.model).__name__, f"{one['method']}: {reason}")
    return wrong, kind_of(built, before) if steps else NOTHING


def kind_of(built, plain: Watch) -> str:
    config = built.pipe.scheduler.config
    flow = "FlowMatch" in type(built.pipe.scheduler).__name__ or getattr(config, "use_flow_sigmas", False)
    if not flow:
        return NOISE
    if plain.each > 1:
        return OWN_CALLS
    return ONE_CALL if len(TransformerBackend().sample_of(*plain.given)) > 1 else ONE_TEXT


@pytest.mark.parametrize("shard", range(SHARDS))
def test_what_is_told_is_what_was_counted(shard):
    """A class that cannot be built, or whose plain call fails, has nothing to compare with; the page names all others, by their kinds."""
    diffusers.logging.set_verbosity_error()
    version, page = told()
    names, wrong = sorted(tiny.found())[shard::SHARDS], []
    for name in names:
        built, why = tiny.build(name)
        if built is None:
            wrong += [f"{name}: {why}"] if name in KNOWN else []
            kind = None
        else:
            found, kind = complaints(built)
            wrong += [f"{name}: {what}" for what in found]
            wrong += [f"{name}: it was not served"] if name in KNOWN and kind == NOTHING else []
        if version == diffusers.__version__ and page.get(name) != kind and (name in page or not MORE):
            wrong.append(f"{name}: the page says {page.get(name)}, it is {kind}, {why}")
    assert not wrong, "\n".join(wrong)


def test_the_page_names_pipelines_of_diffusers_and_all_that_must_be_built():
    version, page = told()
    assert set(KNOWN) <= set(page)
    if version == diffusers.__version__:
        assert set(page) <= set(tiny.found())
