"""PNG info that could not be read. A form sends back values alone: the sentence travels as the value of the preset, marked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...core.fields import SettingError

MARK = "refused: "


def marked(error: SettingError) -> str:
    """What stands where the preset stands, and switches the job off that is run with it."""
    return f"{MARK}{error}"


def check(given: Mapping[str, Any]) -> None:
    """SettingError with the sentence, if the preset of ``given`` is one."""
    name = str(given.get("preset", ""))
    if name.startswith(MARK):
        raise SettingError(name.removeprefix(MARK))
