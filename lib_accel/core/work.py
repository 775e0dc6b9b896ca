"""The work of a U-Net call, as far as methods can take from it. Multiply-adds are made of it in `cost/estimate.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass
class StepWork:
    """A step of one guided picture.

    rows: how many of the two rows run, on average. rest: the part that runs of what lies outside of transformer blocks, 0 to 1.
    blocks: level -> the part of its transformer blocks that run, 0 to 1; all of those that are not listed.
    shallow: for each up stage, the last one first, what runs where the stages below it are served: (its level, ``rest``, ``blocks``).
    """

    rows: float = 2.0
    rest: float = 1.0
    blocks: dict[int, float] = field(default_factory=dict)
    shallow: Sequence[tuple[int, float, Mapping[int, float]]] = ()


@dataclass
class BlockWork:
    """A transformer block on one row.

    grid: (height, width) in tokens. depth: levels below the finest that has attention. channels: of a token.
    tokens: how many tokens ``attn1``, ``attn2`` and ``ff`` run on; 0: the layer does not run. keys: tokens that self-attention takes keys
    and values from, None: those it runs on. agents: agent tokens that it runs through, None: none. matching: multiply-adds of a matching of
    tokens. shared: whether one matching serves all blocks of the level.
    """

    grid: tuple[int, int]
    depth: int
    channels: int
    tokens: dict[str, int] = field(init=False)
    keys: int | None = None
    agents: int | None = None
    matching: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        h, w = self.grid
        self.tokens = dict.fromkeys(("attn1", "attn2", "ff"), h * w)
