"""What an accelerator counts while it works, apart from what each method does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core.reasons import Reason
from ..core.step_count import StepCount


@dataclass
class Tally:
    """Counts of U-Net calls, of their rows [rows as given, as run, as served] and of stages; steps as (number of the pass, step index).

    calls_measured: second runs of shallow stages behind calls. stood_down: clauses that concern all methods.
    """

    calls: int = 0
    calls_served: int = 0
    calls_measured: int = 0
    rows: int = 0
    rows_run: int = 0
    rows_served: int = 0
    stages_served: int = 0
    steps: StepCount = field(default_factory=StepCount)
    stood_down: set[str] = field(default_factory=set)

    def tell(self, code: str, clause: str, **values: Any) -> None:
        """That something concerns all methods; see `Reason.of`."""
        self.stood_down.add(Reason.of(code, clause, **values))

    def as_dict(self, stages: int) -> dict[str, Any]:
        """For the report. stages: how many the U-Net has, 0 where none is served."""
        run = self.calls - self.calls_served
        return {
            "unet_calls": self.calls,
            "rows": self.rows,
            "rows_run": self.rows_run,
            "rows_served": self.rows_served,
            "calls_run": run,
            "calls_served": self.calls_served,
            "calls_measured": self.calls_measured,
            "stages_run": max(0, run * stages - self.stages_served),
            "stages_served": self.stages_served,
            "steps": len(self.steps),
            "last_step": self.steps.last,
        }
