"""Comments in prompts. The host takes them out when a job has begun, after most scripts have looked at its prompts."""

from __future__ import annotations

import re

from modules import shared


def without_comments(prompt: str) -> str:
    """The host takes comments out of prompts; words in them are none, nor are tags."""
    if not getattr(shared.opts, "enable_prompt_comments", False):
        return prompt
    return re.sub(r"#[^\n]*(\n|$)", "\n", re.sub(r"(^|\n)#[^\n]*(\n|$)", "\n", prompt)).strip()
