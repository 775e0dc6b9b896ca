"""CompVis / Stability LDM U-Nets, as the WebUI loads SD1.x and SD2.x."""

from __future__ import annotations

from torch import nn

from ..core.sites import Site, named, sites_in
from ..core.stages import Stage, StageList
from .base import Backend


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


def _changes_size(stage: nn.Module, class_name: str) -> bool:
    """Whether a stage holds a down- or up-sampler, as a module of its own or inside a resampling ResBlock."""
    return any(named(m, class_name) for m in stage.children()) or any(
        named(m, "ResBlock") and getattr(m, "updown", False) and named(m.h_upd, class_name) for m in stage.children()
    )
