"""Entry point of Prompt-to-Prompt in the Script menu: the work is in lib_accel/webui/prompt_to_prompt."""

from lib_accel.webui.prompt_to_prompt.script import PromptToPromptScript

__all__ = ["PromptToPromptScript"]
