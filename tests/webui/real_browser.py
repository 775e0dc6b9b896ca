"""A real WebUI's page in a real browser: a Chromium on PATH, driven by the package playwright, which is not among the tests' own
requirements: ``pip install playwright``."""

from __future__ import annotations

import importlib.util
import io
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import numpy as np
import real_webui
from PIL import Image

from lib_accel.settings.job import preset_values
from lib_accel.settings.model_families import FAMILIES
from lib_accel.settings.schema import KNOBS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Seconds that a slow machine may take for anything on a page.
WAIT = real_webui.WAIT
# What an attacker writes where text is expected.
EVIL = "<img src=x onerror=window.harmed=1>"

_SEEDS = count(1)
_VALUES = """ids => ids.map(id => {
    const at = document.getElementById(id), box = at.querySelector("input[type=checkbox]");
    if (box) return box.checked;
    const radios = [...at.querySelectorAll("input[type=radio]")];
    if (radios.length) return (radios.find(radio => radio.checked) || {value: null}).value;
    return Number(at.querySelector("input[type=number]").value);
})"""
_TEXTS = """at => {
    const found = [], walk = document.createTreeWalker(at, NodeFilter.SHOW_TEXT);
    for (let node; (node = walk.nextNode());)
        if (!node.parentElement.closest(".accel-hidden, .hidden, textarea, style, script")) found.push(node.data);
    return found.map(text => text.trim()).filter(Boolean);
}"""


def executable() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing() -> str | None:
    """Why there can be no tests in a browser; None when there can."""
    if real_webui.root() is None:
        return "A1111_ROOT names no WebUI"
    if importlib.util.find_spec("playwright") is None:
        return "the package playwright is not there"
    return None if executable() else f"none of {', '.join(BROWSERS)} is on PATH"


def exactly(text: str) -> re.Pattern:
    # Lists have a mark before what is chosen.
    return re.compile(rf"^\W*{re.escape(text.lstrip('['))}\s*$")


class Page:
    """The page of ``webui``, opened anew in ``context``. errors: what went wrong on it. asked: the addresses it asked for. preset: what the
    page calls the one that it opens with."""

    def __init__(self, context: Any, webui: real_webui.WebUI, preset: str = "Balanced") -> None:
        from playwright.sync_api import Error

        self.failure = Error
        self.webui, self.preset = webui, preset
        self.errors: list[str] = []
        self.asked: list[str] = []
        self.written = ""
        self.at = context.new_page()
        self.at.set_default_timeout(WAIT * 1000)
        self.at.on("pageerror", lambda error: self.errors.append(error.stack or error.message))
        self.at.on("console", lambda m: m.type == "error" and self.errors.append(f"{m.text} {m.location.get('url')}"))
        self.at.on("request", lambda request: self.asked.append(request.url))
        # What a page asks whether it is sure of; any other question is an error.
        self.sure: str | None = None
        self.at.on("dialog", self._answer)
        self.open()

    def _answer(self, dialog: Any) -> None:
        if self.sure is not None and self.sure in dialog.message:
            dialog.accept()
            return
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self) -> None:
        for _ in range(10):
            # A page that reloads itself at the same time gets in the way.
            with suppress(self.failure):
                self.at.goto(self.webui.address, wait_until="domcontentloaded")
                break
            self.at.wait_for_timeout(1000)
        for tab in ("txt2img", "img2img"):
            self.until(lambda tab=tab: self.preset in self.text(f"#script_{tab}_accel_badge"), f"the header of {tab}")
        # What the page fills when it opens is there now or on its way.
        self.at.wait_for_timeout(1500)

    def until(self, true: Callable[[], Any], what: str) -> Any:
        """Waits for something true, and returns it; fails with ``what``."""
        end = time.monotonic() + WAIT
        while not (found := true()):
            assert time.monotonic() < end, f"waited for {what}; the log says {self.text('#html_log_txt2img')!r}"
            self.at.wait_for_timeout(200)
        return found

    def text(self, selector: str) -> str:
        """What a person reads there; empty when there is nothing."""
        found = self.at.locator(selector)
        return found.last.inner_text().strip() if found.count() else ""

    def texts(self, selector: str) -> list[str]:
        """Each text there, also what is folded."""
        return self.at.locator(selector).first.evaluate(_TEXTS)

    def of(self, name: str, tab: str = "txt2img") -> str:
        """The selector of something in our accordion."""
        return f"#script_{tab}_accel_{name.replace('.', '_')}"

    def values(self, tab: str = "txt2img") -> dict[str, Any]:
        """What the controls of all settings stand at."""
        ids = [self.of(name, tab)[1:] + ("-checkbox" if name == "enabled" else "") for name in KNOBS]
        return dict(zip(KNOBS, self.at.evaluate(_VALUES, ids)))

    def tab(self, name: str) -> None:
        self.at.locator("#tabs > .tab-nav > button").filter(has_text=exactly(name)).click()

    def unfold(self, name: str, tab: str = "txt2img") -> None:
        """Click on a folded accordion; ours itself is ``enabled``."""
        self.at.locator(f"{self.of(name, tab)} .label-wrap").first.click()

    def choose(self, preset: str, tab: str = "txt2img") -> None:
        self.at.locator(f'{self.of("preset", tab)} input[value="{preset}"]').click()

    def switch_on(self, preset: str) -> None:
        """In txt2img, at every size."""
        self.unfold("enabled")
        self.choose(preset)
        self.unfold("fold_advanced")
        self.unfold("fold_thresholds")
        self.at.locator(f"{self.of('auto')} input").uncheck()

    def number(self, selector: str, value: float) -> None:
        field = self.at.locator(f"{selector} input[type=number]").first
        field.fill(str(value))
        field.blur()

    def pick(self, selector: str, text: str) -> None:
        """Choose ``text`` in a drop-down list, by its name and not by its place; it must be there once."""
        self.at.locator(f"{selector} input").first.click()
        self.at.locator(f"{selector} input").first.fill(text)
        item = self.at.locator(f"{selector} ul li").filter(has_text=exactly(text))
        self.until(lambda: item.count() == 1, f"one {text} in {selector}, not {item.count()}")
        item.click()

    def prompt(self, text: str) -> None:
        self.at.locator("#txt2img_prompt textarea").fill(text)

    def paste(self, infotext: str) -> None:
        """As people paste PNG info: into the prompt, then the arrow. Nothing: that of the last picture."""
        self.prompt(infotext)
        self.at.wait_for_timeout(500)
        self.at.locator("#tab_txt2img #paste").first.click()

    def generate(self, steps: int = 2, size: int = 128) -> np.ndarray:
        """The first picture in the gallery when the job is done; ``written`` is its PNG info."""
        seed = next(_SEEDS)
        wanted = {"steps": steps, "width": size, "height": size, "seed": seed}
        for field, value in wanted.items():
            self.number(f"#txt2img_{field}", value)
        self.at.wait_for_timeout(500)
        self.at.locator("#txt2img_generate").click()
        self.until(lambda: f"Seed: {seed}," in self.text("#html_info_txt2img"), f"a picture of seed {seed}")
        self.until(lambda: "Time taken" in self.text("#html_log_txt2img"), "the log")
        shown = self.at.locator("#txt2img_gallery img").first
        self.until(lambda: shown.evaluate("img => img.complete && img.naturalWidth"), "the picture")
        picture = Image.open(io.BytesIO(self.at.request.get(shown.evaluate("img => img.src")).body()))
        self.written = picture.info.get("parameters", "")
        return np.asarray(picture.convert("RGB"))

    def reload_ui(self) -> None:
        """Settings > Reload UI."""
        log = self.webui.data / "log.txt"
        before = log.read_bytes().count(b"Startup time")
        self.tab("Settings")
        self.at.locator("#settings_restart_gradio").click()
        self.until(lambda: log.read_bytes().count(b"Startup time") > before, "the WebUI that starts again")
        # The page looks for it twice a second, and reloads itself.
        self.at.wait_for_timeout(3000)
        self.open()

    def harmed(self) -> list[str]:
        """What `EVIL` did, if anything."""
        ran = ["its script"] if self.at.evaluate("() => 'harmed' in window") else []
        pictures = self.at.locator("img[onerror]").evaluate_all("of => of.map(img => img.outerHTML)")
        return ran + pictures + [url for url in self.asked if url.endswith("/x")]

    def errors_of_ours(self) -> list[str]:
        return [error for error in self.errors if "accel" in error.lower()]

    def shows(self, expected: Mapping[str, Any], tab: str = "txt2img") -> None:
        """Waits until the controls stand at ``expected``; fails with what they show in its place."""

        def differing() -> dict[str, tuple]:
            shown = self.values(tab)
            return {name: (shown[name], value) for name, value in expected.items() if shown[name] != value}

        for _ in range(WAIT):
            if not differing():
                return
            self.at.wait_for_timeout(500)
        assert differing() == {}

    def fills(self, preset: str) -> dict[str, Any]:
        """Waits until the controls show what ``preset`` means for the model, whose family is not known here; its values."""
        known = [preset_values(preset.lower(), family) for family in FAMILIES]
        # Choices are texts on the page.
        wanted = [{k: KNOBS[k].text(v) if KNOBS[k].kind == "choice" else v for k, v in values.items()} for values in known]

        def values() -> dict[str, Any] | None:
            shown = self.values()
            return next((values for values in wanted if {**values, "preset": preset}.items() <= shown.items()), None)

        return self.until(values, f"the values of {preset}")

    def plot(self, size: int = 128) -> tuple[dict[tuple[int, int], np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """A plot of all presets, off first, with and without the first pass: cells by (row, column), labels above the columns and beside
        the rows."""
        columns, rows = 5, 2
        self.pick("#tab_txt2img #script_list", "X/Y/Z plot")
        for axis, label, last in (("x", "[Accel] Preset", "Draft"), ("y", "[Accel] First pass", "False")):
            self.pick(f"#script_txt2img_xyz_plot_{axis}_type", label)
            self.at.locator(f"#tab_txt2img #xyz_grid_fill_{axis}_tool_button").first.click()
            chosen = self.at.locator("#tab_txt2img .token").filter(has_text=exactly(last))
            self.until(lambda chosen=chosen: chosen.count(), f"the values of {label}")
        self.at.wait_for_timeout(500)
        grid = self.generate(steps=4, size=size)
        top, left = grid.shape[0] - rows * size, grid.shape[1] - columns * size
        cells = {(r, c): grid[top + r * size :, left + c * size :][:size, :size] for r in range(rows) for c in range(columns)}
        above = [grid[:top, left + c * size :][:, :size] for c in range(columns)]
        return cells, above, [grid[top + r * size :, :left][:size] for r in range(rows)]
