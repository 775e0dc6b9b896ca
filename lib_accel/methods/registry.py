"""All methods. A new one is a file beside this one, and one line here; see docs/adding-a-method.md."""

from __future__ import annotations

from ..core.method import Method
from ..engine.thresholds import declare_least
from ..prompt_to_prompt.heat_maps import HeatMaps
from ..prompt_to_prompt.method import PromptToPrompt
from .agent_attention import AgentAttention
from .deep_cache import DeepCache
from .forecast import Forecast
from .guidance_skip import GuidanceSkip
from .tgate import TGate
from .token_downsampling import TokenDownsampling
from .token_merging import TokenMerging

# Also the order of their groups of settings, and in which a job's methods are given to the accelerator.
METHODS: list[type[Method]] = [
    AgentAttention,
    TokenMerging,
    TokenDownsampling,
    # Before T-GATE: at guidance scale 1 the prompt's own row is the one that stays.
    GuidanceSkip,
    TGate,
    PromptToPrompt,
    HeatMaps,
    Forecast,
    DeepCache,
]
# How many of them there were when settings got their places: those of later ones stand behind all others, so that settings by position (API
# calls, files that hosts keep) stay what they were.
PLACED = 7

for _method in METHODS:
    declare_least(_method.__name__, _method.declaration.least)


def with_settings() -> list[type[Method]]:
    """Those that a job can set."""
    return [method for method in METHODS if method.declaration.group]


def with_least() -> dict[str, type[Method]]:
    """Those that pay only from some number of tokens on, by their group of settings."""
    return {method.declaration.group: method for method in METHODS if method.declaration.least}


def by_word() -> dict[str, type[Method]]:
    """Those that the command line knows, by their name there."""
    return {method.declaration.named: method for method in METHODS if method.declaration.named}


def of_known_rows() -> tuple[type[Method], ...]:
    """Those that stand down where rows are not known."""
    return tuple(method for method in METHODS if method.declaration.known_rows)
