"""CompVis / Stability LDM U-Nets, as the WebUI loads SD1.x and SD2.x."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from ..core.reasons import Reason
from ..core.sites import Site, named, sites_in
from ..core.stages import Stage, StageList
from . import known
from .base import Backend

# Packages whose modules in a U-Net work row by row, besides its own.
ROW_BY_ROW = frozenset({"torch", "tomesd", "lib_accel", *known.HOST_FORWARDS})


class LDMBackend(Backend):
    name = "ldm"
    looked_for = "an LDM U-Net (input_blocks, middle_block and output_blocks with SpatialTransformer blocks)"

    def matches(self, unet: nn.Module) -> bool:
        stages = all(hasattr(unet, stage) for stage in ("input_blocks", "middle_block", "output_blocks"))
        return stages and any(named(m, "SpatialTransformer") for m in unet.modules())

    def find_sites(self, unet: nn.Module) -> list[Site]:
        sites, level = [], 0
        for index, stage in enumerate(unet.input_blocks):
            if _changes_size(stage, "Downsample"):
                level += 1
            sites += sites_in(stage, f"input_blocks.{index}", level, "down", "SpatialTransformer")
        sites += sites_in(unet.middle_block, "middle_block", level, "mid", "SpatialTransformer")
        for index, stage in enumerate(unet.output_blocks):
            # An up-sampler is the last module of its stage: the transformers before it still see the smaller grid.
            sites += sites_in(stage, f"output_blocks.{index}", level, "up", "SpatialTransformer")
            if _changes_size(stage, "Upsample"):
                level -= 1
        return sites

    def find_stages(self, unet: nn.Module) -> tuple[Stage, ...]:
        stages, level = StageList(), 0
        for index, module in enumerate(unet.input_blocks):
            smaller = _changes_size(module, "Downsample")
            stages.add("down", level, "downsampler" if smaller else "block" if index else "input", {f"input_blocks.{index}": module})
            level += smaller
        stages.add("mid", level, "middle", {"middle_block": unet.middle_block})
        for index, module in enumerate(unet.output_blocks):
            stages.add("up", level, "block", {f"output_blocks.{index}": module})
            level -= _changes_size(module, "Upsample")
        return stages.done()

    def rows_obstacle(self, unet: nn.Module, args: tuple, kwargs: dict, count: int, by_host: bool) -> str | None:
        return known.class_obstacle(unet) or next(_strangers(unet, by_host), None)


def _strangers(unet: nn.Module, by_host: bool) -> Iterator[str]:
    """What of ``unet`` may count rows or mix them (clauses): NegPiP halves a batch, AnimateDiff's modules make one video of it."""
    # Others put theirs behind the first of a stage.
    packages = ROW_BY_ROW | {_package(type(module)) for module in (unet, next(unet.middle_block.children(), unet))}
    for name, module in unet.named_modules():
        if by_host and module is unet:
            continue
        place, kind = name or "the U-Net", type(module)
        if _package(kind) not in packages:
            yield Reason.of("module", "{place} is a {kind} of {package}", place=place, kind=kind.__name__, package=_package(kind))
        for forward in ("forward", "_forward"):
            obstacle = known.forward_obstacle(known.own_forward(module, forward), known.ROWS, known.HOST_FORWARDS, place)
            if obstacle:
                yield obstacle
        hook = known.torch_hook_obstacle(module, place)
        if hook:
            yield hook


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _changes_size(stage: nn.Module, class_name: str) -> bool:
    """Whether a stage holds a down- or up-sampler, as a module of its own or inside a resampling ResBlock."""
    return any(named(m, class_name) for m in stage.children()) or any(
        named(m, "ResBlock") and getattr(m, "updown", False) and named(m.h_upd, class_name) for m in stage.children()
    )
