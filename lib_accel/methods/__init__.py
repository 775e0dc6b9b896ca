"""One file per technique: a frozen settings class that people build, and a runner that works on one U-Net. `registry` lists them."""

from ..engine.contract import HostTraits
from ..prompt_to_prompt.heat_maps import HeatMaps
from ..prompt_to_prompt.method import ImageEdit, PromptToPrompt
from .agent_attention import AgentAttention
from .deep_cache import DeepCache
from .forecast import Forecast
from .guidance_skip import GuidanceSkip
from .registry import METHODS
from .tgate import TGate
from .token_downsampling import TokenDownsampling
from .token_merging import TokenMerging

__all__ = [
    "METHODS",
    "AgentAttention",
    "DeepCache",
    "Forecast",
    "GuidanceSkip",
    "HeatMaps",
    "HostTraits",
    "ImageEdit",
    "PromptToPrompt",
    "TGate",
    "TokenDownsampling",
    "TokenMerging",
]
