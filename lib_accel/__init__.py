"""Faster sampling for Stable Diffusion and other diffusion models: exact when off, honest about what it did.

The portable core: knows nothing of the WebUI and imports torch alone.
"""

from .api import accelerated, apply_patch, is_patched, patch_report, remove_patch
from .core.fields import SettingError
from .core.rows import Row, RowPlan
from .core.sites import UnsupportedModelError
from .engine.accelerator import Accelerator
from .engine.thresholds import Thresholds
from .image_editing.editing import edit_images
from .methods import (
    AgentAttention,
    DeepCache,
    Forecast,
    GuidanceSkip,
    HeatMaps,
    HostTraits,
    ImageEdit,
    PromptToPrompt,
    TGate,
    TokenDownsampling,
    TokenMerging,
)
from .prompt_to_prompt import Edit, LocalBlend, Refine, Replace, Reweight

__version__ = "0.2.0"

__all__ = [
    "Accelerator",
    "AgentAttention",
    "DeepCache",
    "Edit",
    "Forecast",
    "GuidanceSkip",
    "HeatMaps",
    "HostTraits",
    "ImageEdit",
    "LocalBlend",
    "PromptToPrompt",
    "Refine",
    "Replace",
    "Reweight",
    "Row",
    "RowPlan",
    "SettingError",
    "TGate",
    "Thresholds",
    "TokenDownsampling",
    "TokenMerging",
    "UnsupportedModelError",
    "accelerated",
    "apply_patch",
    "edit_images",
    "is_patched",
    "patch_report",
    "remove_patch",
]
