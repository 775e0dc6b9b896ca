"""Faster sampling for Stable Diffusion U-Nets: exact when off, honest about what it did.

The portable core: knows nothing of the WebUI and imports torch alone.
"""

from .accelerator import Accelerator
from .api import accelerated, apply_patch, is_patched, patch_report, remove_patch
from .layout import Row, RowPlan
from .methods import (
    AgentAttention,
    GuidanceSkip,
    HeatMaps,
    HostTraits,
    ImageEdit,
    PromptToPrompt,
    TGate,
    TokenDownsampling,
    TokenMerging,
)
from .prompt_edit import Edit, LocalBlend, Refine, Replace, Reweight
from .prompt_edit.editing import edit_images
from .settings import SettingError
from .sites import UnsupportedModelError
from .thresholds import Thresholds

__version__ = "0.1.0"

__all__ = [
    "Accelerator",
    "AgentAttention",
    "Edit",
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
