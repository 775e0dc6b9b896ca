"""How much of a picture's time settings save: an estimate from multiply-adds, without running or holding a model.

What `macs.count_macs` counts, as formulas for the known shapes. Time is not counted: norms, sorting and copying of tokens come on top, and
hardware does not take the same time for every product. Whether a method pays at all is what the table of thresholds says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.method import Method
from ..core.work import BlockWork, StepWork
from ..ops.levels import grid_at

# A method and the kinds of it that are at work in a step.
AtWork = tuple[Method, tuple[str, ...]]

TEXT_TOKENS = 77
# Multiply-adds of decoding a picture: by latent pixel, and of its one attention layer by pair of latent pixels.
DECODING, DECODING_PAIRS = 302_754_000, 1024


@dataclass(frozen=True)
class Shape:
    """A U-Net's. levels: level -> (blocks, channels). rest: multiply-adds by latent pixel outside of blocks. context: width of the text.

    stages: for each up stage, the last one first, what runs where the stages below it are served: (its level, multiply-adds by latent pixel
    outside of blocks, blocks by level). calls_alone: nothing inside of it can be changed, only whole calls and rows left out.
    """

    levels: Mapping[int, tuple[int, int]]
    rest: int
    context: int
    stages: tuple[tuple[int, int, Mapping[int, int]], ...]
    calls_alone: bool = False

    @property
    def shallow(self) -> tuple[tuple[int, float, Mapping[int, float]], ...]:
        """The same as `StepWork` has it."""
        parts = ({level: run.get(level, 0) / blocks for level, (blocks, _) in self.levels.items()} for _, _, run in self.stages)
        return tuple((level, rest / self.rest, part) for (level, rest, _), part in zip(self.stages, parts))


_SD1_STAGES = (
    (0, 3_197_440, {0: 1}),
    (0, 8_419_840, {0: 3}),
    (0, 14_666_240, {0: 5}),
    (1, 21_245_440, {0: 5, 1: 1}),
    (1, 26_058_240, {0: 5, 1: 3}),
    (1, 32_304_640, {0: 5, 1: 5}),
    (2, 38_883_840, {0: 5, 1: 5, 2: 1}),
    (2, 43_696_640, {0: 5, 1: 5, 2: 3}),
    (2, 48_919_040, {0: 5, 1: 5, 2: 5}),
    (3, 50_813_440, {0: 5, 1: 5, 2: 5}),
    (3, 52_016_640, {0: 5, 1: 5, 2: 5}),
    (3, 53_219_840, {0: 5, 1: 5, 2: 5}),
)
_SDXL_STAGES = (
    (0, 2_992_640, {}),
    (0, 7_805_440, {}),
    (0, 13_642_240, {}),
    (1, 20_221_440, {1: 2}),
    (1, 25_034_240, {1: 6}),
    (1, 31_280_640, {1: 10}),
    (2, 37_859_840, {1: 10, 2: 10}),
    (2, 42_672_640, {1: 10, 2: 30}),
    (2, 47_895_040, {1: 10, 2: 50}),
)
SHAPES = {
    "sd1": Shape({0: (5, 320), 1: (5, 640), 2: (5, 1280), 3: (1, 1280)}, 54_192_640, 768, _SD1_STAGES),
    "sd2": Shape({0: (5, 320), 1: (5, 640), 2: (5, 1280), 3: (1, 1280)}, 54_192_640, 1024, _SD1_STAGES),
    "sdxl": Shape({1: (10, 640), 2: (60, 1280)}, 51_786_240, 2048, _SDXL_STAGES),
    # A diffusion transformer of four billion parameters whose tokens are 2 x 2 latent pixels.
    "transformer": Shape({0: (0, 0)}, 1_000_000_000, 0, (), calls_alone=True),
}


def decoding_work(h: int, w: int) -> float:
    """Multiply-adds of decoding a latent of ``h`` x ``w``."""
    return DECODING * h * w + DECODING_PAIRS * (h * w) ** 2


def step_work(
    shape: Shape, h: int, w: int, at_work: Sequence[AtWork] = (), least: Mapping[type, int] | None = None, rows: float = 2.0
) -> float:
    """Multiply-adds of the U-Net calls of a step on a latent of ``h`` x ``w`` while ``at_work`` act.

    least: tokens from which a method acts at a level, by its class. rows: how many run where nothing is left out, 2 for a guided picture.
    """
    step, finest = StepWork(rows, shallow=shape.shallow), min(shape.levels)
    for method, kinds in at_work:
        method.spare_step(step, kinds)
    total = step.rest * shape.rest * h * w
    for level, (blocks, channels) in shape.levels.items():
        grid = grid_at(h, w, level)
        block = BlockWork(grid, level - finest, channels)
        for method, kinds in at_work:
            if grid[0] * grid[1] >= (least or {}).get(type(method), 0):
                method.spare_block(block, kinds)
        run = blocks * step.blocks.get(level, 1.0)
        total += run * block_work(block, shape.context) + block.matching * (min(run, 1) if block.shared else run)
    return step.rows * total


def block_work(block: BlockWork, context: int) -> float:
    """Multiply-adds of the three layers of ``block``. context: width of the text."""
    tokens, channels = block.tokens, block.channels
    total, n = 0.0, tokens["attn1"]
    if n and block.agents is not None:
        total += channels**2 * (4 * n + block.agents) + 4 * channels * n * block.agents
    elif n:
        keys = n if block.keys is None else block.keys
        total += 2 * channels**2 * (n + keys) + 2 * channels * n * keys
    if tokens["attn2"]:
        total += 2 * channels * (tokens["attn2"] * (channels + TEXT_TOKENS) + context * TEXT_TOKENS)
    return total + 12 * channels**2 * tokens["ff"]
