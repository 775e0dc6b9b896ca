"""The script "Prompt-to-Prompt" of the Script menu."""

from __future__ import annotations

import copy
from typing import Any

import modules.scripts as scripts
from modules import processing

from ...core.fields import SettingError
from ..host import facts, requests
from . import checking, controls, result, runs, ui


class PromptToPromptScript(scripts.Script):
    """One instance per tab. Nothing of a job is kept on it."""

    def title(self) -> str:
        return controls.TITLE

    def show(self, is_img2img: bool) -> bool:
        return True

    def ui(self, is_img2img: bool) -> list[Any]:
        built = ui.build(self.elem_id, "img2img" if is_img2img else "txt2img")
        self.infotext_fields = built.infotext_fields
        self.paste_field_names = built.paste_field_names
        return built.controls

    def run(self, p: Any, *args: Any) -> Any:
        """The grids. SettingError (422 for the API), before anything is drawn, for what cannot be drawn as asked."""
        # Whoever gave us p may run it again (img2img's batch): it stays as it is.
        own = copy.copy(p)
        own.script_args = requests.in_their_places(p, self)
        processing.fix_seed(own)
        facts.load_model()
        try:
            edits, plan = checking.prepared(own, args)
        except SettingError as error:
            raise requests.refusal(p, error) from error
        drawn = runs.draw(own, edits, plan)
        try:
            return result.result(own, edits, plan, drawn)
        except RuntimeError as error:
            raise requests.refusal(p, error, status=500) from error
