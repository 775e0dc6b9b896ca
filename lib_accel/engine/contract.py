"""What a method is to the accelerator: what it acts on, and its part in a pass, a U-Net call, a stage and a layer call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..backends.known import TOKENS
from ..core.method_account import MethodAccount
from ..core.rows import RowPlan
from ..core.schedule import Window
from ..core.sites import Site
from ..core.stages import Stage
from .moments import HostTraits, LayerAtWork, Moment, Reduction, StageCut, UNetCall

__all__ = ["HostTraits", "LayerAtWork", "Moment", "Reduction", "Runner", "StageCut", "UNetCall"]


class Runner:
    """A method at work on one U-Net: its settings, its state, its account.

    **A pass.** The engine calls, each exactly once, however the host batches (one call for all rows, one for each half, AND prompts, two
    evaluations) and whether or not it asks for a `row_plan` first::

        begin_pass
          begin_step                  the first thing in a step; decide here, once for all of its calls
            begin_call                a U-Net call is about to run
              drop_rows, needs_full, serve_output, cut_stages        what this method wants of the call
              ... stages and layers ...
            fill_dropped, end_call    the prediction is there
          end_step                    at the latest when the next step begins
        end_pass                      at the latest when the next pass begins, or the accelerator is removed

    A step outside `window` does not exist for the method. A call that ends in an error has no `end_call`. In a step of which a host asks
    before its calls, `begin_step` comes without latents (``moment.sample`` is None).

    **What a call leaves out** is composed of what all methods want of it; their order decides nothing:

    * rows that `drop_rows` leaves out are filled from the row that stands for them, whoever else could serve them;
    * then `needs_full` of any method keeps the rest of the call whole;
    * rows that `serve_output` returns are not run. Where none is left, nothing of the U-Net runs;
    * the rows that are left run, their deep stages only where no `cut_stages` serves them.

    **Only what ran is learnt from.** `end_call` tells every method which rows of the prediction were really run, in whole; `observe_stage`
    and `observe` see run rows alone. Dropped, served and cut rows are never among them.

    **In a layer call** the phases are serve > reduce > compute; a method takes part in those it overrides.
    """

    # -- what it acts on, declared ---------------------------------------------------------------------------------------------

    # Parts whose computation this method replaces. Two methods may not meet in one.
    computes: frozenset[str] = frozenset()
    # What a layer must be known to allow before this method touches it; see backends/known.py.
    ability = TOKENS
    # Parts whose tokens this method reduces. Two methods may not meet in one.
    reduces: frozenset[str] = frozenset()
    # Whether no other method may reduce or compute the parts that this one wants: its tokens are paired with those of other rows.
    exclusive = False
    # Whether block_tokens wants to see what a block is given.
    needs_tokens = False
    # Whether observe wants to see what layers return.
    observes = False
    # Whether serve_output may serve rows: the U-Net then gets a forward of ours, which does nothing as long as rows are left to run.
    serves_calls = False
    # Whether cut_stages, serve_stage or observe_stage want anything.
    serves_stages = False
    # Whether what it keeps outlives a change of the prompts or adapters in mid-pass; otherwise `reset` comes then.
    outlives_prompts = False
    # The same of a change of the guidance scale alone.
    outlives_scale = False
    # Whether its part in a call's layers may be done over (`second_cut`): it keeps nothing of them but what it observes.
    repeatable = True
    # Whether it adds something of its own to rows that it dropped; a host that drops rows itself has to ask for it (`direction`).
    changes_fill = False

    # -- what the accelerator tells ----------------------------------------------------------------------------------------------

    # The coarsest level of this U-Net that has attention.
    coarsest = 0
    # The U-Net's stages in order of execution; empty where they are not known.
    stages: tuple[Stage, ...] = ()
    # All methods at work on this U-Net, this one among them.
    at_work: Sequence[Runner] = ()

    def __init__(self, config: Any) -> None:
        self.config = config
        self.account = MethodAccount(type(config).__name__, config)
        # Whether it does nothing more until the accelerator is removed; the account says why.
        self.stopped = False
        # Whether it does nothing in the step at hand, as something better is at work.
        self.stands_aside = False

    @property
    def window(self) -> Window:
        return self.config.window

    @property
    def acts_inside(self) -> bool:
        """Whether it needs layers or stages of the model; others act on rows and whole calls."""
        return bool(self.computes or self.reduces or self.observes or self.serves_stages or self.ability != TOKENS)

    def stop(self, why: str) -> None:
        """Do nothing more until the accelerator is removed. why: a clause for the report."""
        if not self.stopped:
            self.stopped, self.account.off = True, why
            self.reset()

    def fail(self, why: str) -> None:
        """Our own code failed here: do nothing more. why: a clause for the report."""
        self.stopped, self.account.failed = True, why

    def wants(self, site: Site, finest: int) -> frozenset[str]:
        """Parts of ``site`` it acts on; ``finest`` is the finest level of this U-Net that has attention."""
        return frozenset()

    def reset(self) -> None:
        """Forget what was kept: a new pass, another size or model begins, or the accelerator is removed."""

    # -- the course of a pass --------------------------------------------------------------------------------------------------

    def begin_pass(self, moment: Moment) -> None:
        """The first step of a pass is about to begin; `reset` went before."""

    def begin_step(self, moment: Moment) -> None:
        """A step is about to begin. ``moment`` is its first U-Net call, or the whole step where a host asks before its calls."""

    def begin_call(self, moment: Moment) -> None:
        """A U-Net call on ``moment.sample`` is about to run."""

    def end_call(self, moment: Moment, prediction: torch.Tensor, ran: tuple[int, ...]) -> None:
        """A U-Net call is over.

        Args:
            prediction: [rows, ...] what it predicted for all of ``moment.rows``, dropped and served ones as they were filled. The host may
                change it in place later: keep copies.
            ran: indices of the rows that were really run, in whole. What is in the others must not be learnt from.
        """

    def end_step(self) -> None:
        """All calls of the step are over."""

    def end_pass(self) -> None:
        """The pass is over: free what only it needed. It may still turn out to go on, without `begin_pass`."""

    # -- rows ------------------------------------------------------------------------------------------------------------------

    def drop_rows(self, moment: Moment) -> RowPlan | None:
        """Which rows of ``moment`` run, and whose prediction the others get; None for all. Asked for whole steps and for calls."""
        return None

    def fill_dropped(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """The U-Net's hooks dropped ``rows`` as `drop_rows` said: change ``prediction`` [rows, ...] in place there.

        Only for methods that say `changes_fill`, and for rows that no other method dropped.
        """

    def direction(self, moment: Moment, image: int) -> torch.Tensor | None:
        """The guidance direction that picture ``image`` goes on with in a step whose rows a host drops: noise [channels, h, w], float32."""
        return None

    # -- whole calls -----------------------------------------------------------------------------------------------------------

    def needs_full(self, moment: Moment) -> str | None:
        """Why every row that runs must run in whole in this call (a clause), or None. Nothing is then served by `serve_output` and
        `cut_stages`, of whatever method."""
        return None

    def serve_output(self, moment: Moment, rows: tuple[int, ...]) -> Mapping[int, torch.Tensor] | None:
        """The U-Net's whole prediction for some of the ``rows`` (indices into ``moment.rows``) that are to run: index -> [channels, h, w].

        In the U-Net's own parameterisation; the dtype is adapted. Rows of one picture are best served together: the guided prediction is
        made of all of them.
        """
        return None

    def refused(self) -> None:
        """What `serve_output` or `cut_stages` returned last is not carried out: these rows run, unless another method serves them."""

    def decides_steps(self, moment: Moment) -> bool:
        """Whether it alone says which steps of the pass of ``moment`` run in whole."""
        return False

    def goes_with_kept_guidance(self, moment: Moment) -> bool | None:
        """Whether a kept guidance direction is worth it beside the whole steps that it may serve in the pass of ``moment``; None where it
        serves none."""
        return None

    # -- stages ----------------------------------------------------------------------------------------------------------------

    def cut_stages(self, moment: Moment, rows: tuple[int, ...]) -> StageCut | None:
        """Which of the ``rows`` (indices into ``moment.rows``) that are left to run need their shallow stages alone."""
        return None

    def second_cut(self, moment: Moment, rows: tuple[int, ...], ran: tuple[int, ...]) -> StageCut | None:
        """After a call that ran ``rows`` (indices), of them ``ran`` in whole: the deep stages of all ``rows`` to serve in a second run.
        That tells what the shallow ones alone would have predicted (`measured`). Nothing else is learnt from it.
        """
        return None

    def measured(self, moment: Moment, prediction: torch.Tensor, rows: tuple[int, ...]) -> None:
        """The second run predicted ``prediction`` [all rows, ...]; ``rows`` (indices) of it ran in whole before."""

    def watches(self, stage: Stage) -> bool:
        """Whether `serve_stage` and `observe_stage` want ``stage`` in this call; asked for every call."""
        return False

    def serve_stage(self, call: UNetCall, stage: Stage, x: torch.Tensor) -> torch.Tensor | None:
        """What ``stage`` returns [rows, C', h', w'] for ``x`` [rows, C, h, w], so that it need not run; None runs it. Not asked in a call
        that `needs_full`, nor in stages that a cut leaves out. `end_call` then says that no row ran in whole."""
        return None

    def observe_stage(self, call: UNetCall, stage: Stage, out: torch.Tensor) -> None:
        """``stage`` was run on all of ``call.rows`` and returned ``out`` [rows, C', h', w'], before a ControlNet's residual is added.
        Keep copies. What enters an up stage before its skip connection is joined is what the stage before it returns. In a call whose deep
        stages some rows are served, ``call.rows`` are the others there."""

    # -- layers ----------------------------------------------------------------------------------------------------------------

    def block_tokens(self, call: UNetCall, site: Site, x: torch.Tensor) -> None:
        """A block of this method's sites is about to run on the raw tokens ``x`` [B, N, C] (before its first norm)."""

    def serve(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        """The layer's output [B, N, C] from a cache, so that it need not run; None computes it."""
        return None

    def reduce(self, call: UNetCall, site: Site, part: str) -> Reduction | None:
        """How to run the layer on fewer tokens; None runs it on all."""
        return None

    def compute(self, call: UNetCall, site: Site, layer: LayerAtWork) -> torch.Tensor | None:
        """The layer's output [B, M, C] on ``layer.x``; None lets the layer's own forward compute it."""
        return None

    def observe(self, call: UNetCall, site: Site, layer: LayerAtWork, out: torch.Tensor) -> None:
        """The layer returned ``out`` [B, N, C], un-merged, and nothing was served. Hosts may edit it in place later: keep copies."""
