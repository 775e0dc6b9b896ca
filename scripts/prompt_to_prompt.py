"""Entry point of Prompt-to-Prompt in the Script menu: the work is in lib_accel/webui/prompt_edit."""

from lib_accel.webui.prompt_edit.script import PromptToPromptScript

__all__ = ["PromptToPromptScript"]
