"""Every preset with the samplers that people use, in every kind of job: what the jobs are, and a real WebUI that draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import real_webui
from real_webui import encoded, pixels, png_info

from lib_accel.core.method import TOKENS
from lib_accel.core.samplers import sampler_named
from lib_accel.settings.presets import preset

KARRAS = {"scheduler": "Karras"}
SAMPLERS: dict[str, dict[str, str]] = {
    "DPM++ 2M Karras": {"sampler_name": "DPM++ 2M"} | KARRAS,
    "DPM++ 2M SDE Karras": {"sampler_name": "DPM++ 2M SDE"} | KARRAS,
    "DPM++ SDE Karras": {"sampler_name": "DPM++ SDE"} | KARRAS,
    "Euler a": {"sampler_name": "Euler a"},
    "Euler": {"sampler_name": "Euler"},
    "DDIM": {"sampler_name": "DDIM"},
    "UniPC": {"sampler_name": "UniPC"},
}
# Every pass has more steps than a few-step model is given, and enough of them that some are forecast.
SIZES = {"prompt": "a large red star", "seed": 1, "steps": 14, "width": 96, "height": 96, "cfg_scale": 7}
PICTURE = np.stack([(np.indices((96, 96)).sum(0) % 64 * 4).astype(np.uint8)] * 3, 2)
IMG2IMG = {"init_images": [encoded(PICTURE)], "denoising_strength": 0.9}
MASK = {"mask": encoded(np.pad(np.full((48, 48), 255, np.uint8), 24)), "inpainting_fill": 1, "inpaint_full_res": False}
KINDS: dict[str, dict[str, Any]] = {
    "txt2img": {},
    "hires": {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.9},
    "img2img": IMG2IMG,
    "inpainting": IMG2IMG | MASK,
}
# What PNG info does not tell, or requests do not read out of it in image to image.
UNREAD = ("prompt", "width", "height", "denoising_strength", *IMG2IMG, *MASK)


def fields_of(kind: str, sampler: str) -> dict[str, Any]:
    return SIZES | SAMPLERS[sampler] | KINDS[kind]


class Drawing:
    """Draws jobs of one WebUI. In image to image its encoder draws from the global generator, which every job leaves where its sampler
    leaves it: a job of the same kind goes before."""

    def __init__(self, data: Path, checkpoint: Path | None, **given: Any) -> None:
        self.webui = real_webui.WebUI(data, checkpoint=checkpoint, **given)
        self._last: tuple[str, str] | None = None

    def begin(self, kind: str, sampler: str) -> None:
        if "init_images" in KINDS[kind] and self._last != (kind, sampler):
            self._ask(kind, fields_of(kind, sampler))
        self._last = (kind, sampler)

    def job(self, kind: str, sampler: str, accel: Any = None, **fields: Any) -> tuple[np.ndarray, str]:
        """(pixels, PNG info)."""
        given = fields_of(kind, sampler) | fields
        if accel is not None:
            given["alwayson_scripts"] = {"accel": {"args": [accel]}}
        return self._drawn(kind, sampler, given)

    def replay(self, kind: str, sampler: str, told: str) -> tuple[np.ndarray, str]:
        """(pixels, PNG info) of the job that PNG info tells of."""
        given = {name: value for name, value in fields_of(kind, sampler).items() if "init_images" in KINDS[kind] and name in UNREAD}
        if kind == "hires":
            # PNG info does not say how the hires pass samples where that is as in the first.
            given |= {"hr_sampler_name": SAMPLERS[sampler]["sampler_name"], "hr_scheduler": SAMPLERS[sampler].get("scheduler", "Automatic")}
        return self._drawn(kind, sampler, given | {"infotext": told})

    def _drawn(self, kind: str, sampler: str, given: dict[str, Any]) -> tuple[np.ndarray, str]:
        self.begin(kind, sampler)
        answer = self._ask(kind, given)
        picture, (told,) = answer["images"][0], self.webui.told(answer)
        assert png_info(picture) == told
        return pixels(picture), told

    def _ask(self, kind: str, given: dict[str, Any]) -> dict[str, Any]:
        status, answer = self.webui.post(f"/sdapi/v1/{'img2img' if 'init_images' in KINDS[kind] else 'txt2img'}", given)
        assert status == 200, answer
        return answer


def acts_on_layers(name: str) -> bool:
    return any(method.declaration.acts_on == TOKENS for method in preset(name))


def forecast_at_all(sampler: str) -> bool:
    return sampler_named(SAMPLERS[sampler]["sampler_name"]).forecasting is not None
