"""Methods for tests: one serves whole calls, one serves a stage, one runs the shallow stages alone."""

from __future__ import annotations

from dataclasses import dataclass

from lib_accel.core.row_history import RowHistory
from lib_accel.core.rows import Layout
from lib_accel.engine.contract import Runner


@dataclass(frozen=True)
class ServeCalls:
    """Whole predictions are served in steps whose index is no multiple of ``every``, from what rows returned last (order 0).

    images: the pictures that are served, None for all.
    """

    every: int = 2
    images: tuple[int, ...] | None = None
    window: tuple[float, float] = (0.0, 1.0)

    def runner(self):
        return ServeCallsRunner(self)


class ServeCallsRunner(Runner):
    serves_calls = True

    def __init__(self, config):
        super().__init__(config)
        self.history = RowHistory()

    def reset(self):
        self.history.clear()

    def serve_output(self, moment, rows):
        if moment.step.index % self.config.every == 0:
            return None
        images = self.config.images
        kept = {row: self.history.at("output", [moment.rows[row]]) for row in rows if images is None or moment.rows[row].image in images}
        return {row: value[0] for row, value in kept.items() if value is not None}

    def end_call(self, moment, prediction, ran):
        if ran:
            self.history.put("output", Layout(moment.rows[row] for row in ran), prediction[list(ran)])
            self.account.keeps(self.history.nbytes)


def res_blocks_run(unet) -> list[str]:
    """The names of the ResBlocks that run from now on."""
    seen = []
    for name, module in unet.named_modules():
        if type(module).__name__ in ("ResBlock", "ResnetBlock2D"):
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    return seen
