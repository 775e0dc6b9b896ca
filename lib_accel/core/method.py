"""What a method tells everybody but the engine of itself: its settings, what a pass will look like, what it needs of a host.

Schema, PNG info, API, X/Y/Z axes, accordion, previews, estimates, composed timings, `check`, `calibrate`, the words of the command line and
the WebUI's session read this of every method in `methods/registry.py`; none of them names one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .rows import Layout
from .samplers import Sampler
from .schedule import Window, acts_in
from .work import BlockWork, StepWork

# What a method changes: tokens inside of layers, rows of a U-Net call, stages of the U-Net, or the whole call.
TOKENS, ROWS, STAGES, CALL = "tokens", "rows", "stages", "call"
WHOLE_PASS: Window = (0.0, 1.0)


@dataclass(frozen=True)
class Kind:
    """Something that may be at work in a step, as previews show it.

    name: in data. label: in the legend, in words. colour: of its mark, as CSS has it. line: whether the mark is a line below the step's
    own colour; otherwise it is that colour.
    """

    name: str
    label: str
    colour: str
    line: bool = False


@dataclass(frozen=True)
class HiresSetting:
    """A method's setting in the hires pass's own profile.

    name, field: as of a dataclass field (see `fields.setting`). means: from its value to values of the method's own settings, by name
    (``on``, ``start`` and ``end`` among them).
    """

    name: str
    field: Any
    means: Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Schedule:
    """What a method does in each step of a pass, as far as it is known beforehand.

    kinds: names of the kinds at work, for each step. details: for each step, what else tells its cost from that of others. even: whether
    steps of the same kinds and details cost the same. edges: steps at which something begins or ends; None: where kinds or details change.
    later: whether more may turn out to be at work while the pass runs. again: how many steps run a second time behind the first, as its
    kinds say, to measure.
    """

    kinds: tuple[tuple[str, ...], ...]
    details: tuple[Hashable, ...] = ()
    even: bool = True
    edges: frozenset[int] | None = None
    later: bool = False
    again: float = 0.0

    @property
    def costs(self) -> tuple[Hashable, ...] | None:
        """Steps with equal entries cost the same; None where that is not known."""
        return tuple(zip(self.kinds, self.details or self.kinds)) if self.even else None

    @property
    def all_edges(self) -> frozenset[int]:
        if self.edges is not None:
            return self.edges
        marks = list(zip(self.kinds, self.details or self.kinds))
        return frozenset(step for step in range(1, len(marks)) if marks[step] != marks[step - 1])


@dataclass(frozen=True)
class Declaration:
    """What a method is, once for all of its settings.

    acts_on: `TOKENS`, `ROWS`, `STAGES` or `CALL`. kinds: what may be at work in a step. later: what previews say where
    more may turn out (see `Schedule`). watches: it changes nothing of what the U-Net returns.

    As settings of a job (none without ``group``): group: the beginning of their names. title, hint: of its switch. settings: the fields
    that are settings of a job, None for all but the window. rare: those of them that are rarely changed. late: those that came after
    version 0.1.0, or after the method; they stand behind those of then, so that settings by position stay what they were. hires: its
    setting in the hires pass's own profile. displaces: in its window other methods on the same wait.
    least: tokens from which it pays, by kind of device and attention kernel (``cpu``, ``gpu``, ``gpu unfused``); None: it acts at every
    size. `calibrate` measures what has such numbers. least_hint: what happens from so many tokens on, in words.
    at_scale_one: makes the settings that act at guidance scale 1 in a job that has the method off.

    In a host: known_rows: it stands down where rows are not known, or others count on all of them. sigma: whether, with these settings, it
    goes by the noise level, which hosts tell only when asked.

    needs: field -> (another field, its values with which the first one has an effect). saves: about how many times as fast a picture is
    with it (SD1.5, 1024 x 1024, 25 steps, by estimate): people meet the methods in this order.

    word: its name on the command line, ``group`` without. check_steps: how many steps of how many `check` tells for it to act.
    check_rows: the rows of the U-Net call then, None: one guided picture's.
    """

    acts_on: str
    kinds: tuple[Kind, ...] = ()
    later: str = ""
    watches: bool = False
    group: str = ""
    title: str = ""
    hint: str = ""
    settings: tuple[str, ...] | None = None
    rare: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    hires: HiresSetting | None = None
    displaces: bool = False
    needs: Mapping[str, tuple[str, tuple[Any, ...]]] = field(default_factory=dict)
    saves: float = 1.0
    least: Mapping[str, int] | None = None
    least_hint: str = ""
    at_scale_one: Callable[[], Method] | None = None
    known_rows: bool = False
    sigma: Callable[[Any], bool] = field(default=lambda method: False)
    word: str = ""
    check_steps: tuple[int, int] = (1, 1)
    check_rows: Layout | None = None

    @property
    def named(self) -> str:
        """Its name on the command line; empty for none."""
        return self.word or self.group


class Method:
    """The base of all settings classes. Each is a frozen dataclass with a `Declaration`, and overrides what is different for it."""

    declaration: ClassVar[Declaration]

    def runner(self) -> Any:
        """The method at work on one U-Net: an `engine.contract.Runner`."""
        raise NotImplementedError

    # -- a pass --------------------------------------------------------------------------------------------------------------

    def schedule(self, steps: int, scale: float | None = None, sampler: str | Sampler = "", run: Sequence[int] | None = None) -> Schedule:
        """What it does in a pass of ``steps``. scale: the guidance scale; None: any. sampler: its name, where known. run: the steps
        that are run at all, in order (default: all); the answer has one entry for each of these.

        Without an override: all its kinds in its window.
        """
        window, all_kinds = getattr(self, "window", WHOLE_PASS), tuple(kind.name for kind in self.declaration.kinds)
        told = range(steps) if run is None else run
        acts = tuple(acts_in(window, step, steps) for step in told)
        return Schedule(tuple(all_kinds if now else () for now in acts), acts)

    def schedule_beside(self, others: Iterable[Method], steps: int, scale: float | None, sampler: str | Sampler) -> Schedule:
        """The same of a pass in which ``others`` are at work, too; what is left of it where they serve whole steps is not its to say."""
        return self.schedule(steps, scale, sampler)

    def decides_for(self, sampler: str | Sampler) -> bool:
        """Whether it decides for each picture, with the ``sampler`` of this name, which steps run in whole."""
        return False

    def spare_step(self, work: StepWork, kinds: tuple[str, ...]) -> None:
        """Take from ``work`` what a step of these ``kinds`` does not run."""

    def spare_block(self, work: BlockWork, kinds: tuple[str, ...]) -> None:
        """Take from ``work``, of one transformer block and one row, what is not computed in a step of these ``kinds``."""

    # -- other circumstances ---------------------------------------------------------------------------------------------------

    def without_fixed_steps(self) -> Method | None:
        """What it becomes under a sampler that takes as many steps as it likes; None: it stands down."""
        return self

    def sparing_memory(self) -> Method:
        """What it becomes where the GPU's memory is short."""
        return self

    def behind_switch(self) -> Method | None:
        """What it becomes for the rest of a pass whose model was changed in the middle (a refiner); None: it stands down."""
        return self

    # -- checks and words --------------------------------------------------------------------------------------------------------

    @classmethod
    def disagreement(cls, values: Mapping[str, Any], prefix: str) -> str | None:
        """A sentence when these values of its fields, each good by itself, do not go together. prefix: what their names begin with."""
        return None

    def forecasts(self, steps: int, sampler: Sampler) -> bool:
        """Whether it may serve whole steps of a pass of ``steps`` with ``sampler``."""
        return False

    def goes_with_kept_guidance(self, steps: int, sampler: Sampler) -> bool | None:
        """Whether a kept guidance direction beside it is nearer to the full picture than what else saves as much; None where it serves no
        whole steps of such a pass."""
        return None

    def stands_aside(self, beside: Iterable[Method], steps: int, sampler: str | Sampler) -> bool:
        """Whether it does nothing in a pass of ``steps`` because of the ``sampler`` (its name) or of the methods ``beside`` it."""
        return False

    def leaves_flow_alone(self, steps: int, sampler: str | Sampler) -> bool:
        """Whether it does nothing in a pass of ``steps`` of a model of flow matching because of these or of the ``sampler`` (its name)."""
        return False

    def limit(self) -> tuple[str, str] | None:
        """Where a setting cannot act as far as it says: (what is said of that, the number up to which it acts)."""
        return None

    @classmethod
    def example(cls) -> Method:
        """Settings with which it acts wherever it can: what `check` and the tests run."""
        return cls.in_every_step()

    @classmethod
    def in_every_step(cls) -> Method:
        """Its defaults, for the whole pass: what `calibrate` runs."""
        return cls(**({"window": WHOLE_PASS} if is_windowed(cls) else {}))

    @classmethod
    def worded(cls) -> type:
        """The dataclass whose fields can be written on the command line; its ``method()`` gives the settings."""
        return cls

    def method(self) -> Method:
        return self


def is_windowed(method: type[Method]) -> bool:
    """Whether it acts in a part of the pass that is set."""
    return "window" in method.__dataclass_fields__
