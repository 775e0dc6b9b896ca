"""What is known of the attention processors, forwards and hooks that other people put on a U-Net's layers: data, and how it is asked.

A layer is reduced, served from a cache or given other keys only where everything that takes part in it is named here. Whatever is not
named runs as it is, and the report says what that was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from ..core.reasons import Reason

# What may be done with a layer.
# rows: it works row by row, so rows of a batch may be left out.
ROWS = "rows"
# tokens: it works token by token, so it may be given fewer of them.
TOKENS = "tokens"
# served: it only returns, so it need not run: what it returned before may stand for what it would return.
SERVED = "served"
# keys: self-attention that takes keys and values from a context, if one is given.
KEYS = "keys"
# plain: softmax(q k^T) v between its own projections and nothing else, so it may be computed in another way.
PLAIN = "plain"

_COMMON = frozenset({ROWS, TOKENS, SERVED})
_ALL = _COMMON | {KEYS, PLAIN}

# Of diffusion transformers that guide both texts in one call.
TRANSFORMER_PROCESSORS = (
    "AuraFlowAttnProcessor2_0",
    "CogVideoXAttnProcessor2_0",
    "FluxAttnProcessor",
    "JointAttnProcessor2_0",
    "LTXVideoAttnProcessor",
    "MochiAttnProcessor2_0",
    "SanaLinearAttnProcessor2_0",
)
# Attention processors of diffusers: (package, name) -> what may be done.
PROCESSORS: dict[tuple[str, str], frozenset[str]] = {
    ("diffusers", "AttnProcessor"): _ALL,
    ("diffusers", "AttnProcessor2_0"): _ALL,
    ("diffusers", "AttnProcessorNPU"): _ALL,
    ("diffusers", "XFormersAttnProcessor"): _ALL,
    ("diffusers", "SlicedAttnProcessor"): _ALL,
    # Self-attention has one projection for queries, keys and values.
    ("diffusers", "FusedAttnProcessor2_0"): _COMMON,
    # These take the text's place for granted where a context is given.
    ("diffusers", "AttnAddedKVProcessor"): _COMMON,
    ("diffusers", "AttnAddedKVProcessor2_0"): _COMMON,
    ("diffusers", "XFormersAttnAddedKVProcessor"): _COMMON,
    ("diffusers", "SlicedAttnAddedKVProcessor"): _COMMON,
    ("diffusers", "CustomDiffusionAttnProcessor"): _COMMON,
    ("diffusers", "CustomDiffusionAttnProcessor2_0"): _COMMON,
    ("diffusers", "CustomDiffusionXFormersAttnProcessor"): _COMMON,
    ("diffusers", "IPAdapterAttnProcessor"): _COMMON,
    ("diffusers", "IPAdapterAttnProcessor2_0"): _COMMON,
    ("diffusers", "IPAdapterXFormersAttnProcessor"): _COMMON,
    # Grouped heads.
    ("diffusers", "DreamLiteAttnProcessor2_0"): _COMMON | {KEYS},
    # Of diffusion transformers.
    **{("diffusers", name): frozenset({ROWS}) for name in TRANSFORMER_PROCESSORS},
    # They tell the rows of a batch apart by halves and thirds.
    ("diffusers", "PAGIdentitySelfAttnProcessor2_0"): frozenset({TOKENS, SERVED}),
    ("diffusers", "PAGCFGIdentitySelfAttnProcessor2_0"): frozenset({TOKENS, SERVED}),
    # The IP-Adapter project's own.
    ("ip_adapter", "AttnProcessor"): _ALL,
    ("ip_adapter", "AttnProcessor2_0"): _ALL,
    ("ip_adapter", "IPAttnProcessor"): _COMMON,
    ("ip_adapter", "IPAttnProcessor2_0"): _COMMON,
}

# Hooks on modules that move or cast what a module is given, and change nothing: (package, class).
HOOKS = frozenset(
    {
        ("diffusers", "GroupOffloadingHook"),
        ("diffusers", "LazyPrefetchGroupOffloadingHook"),
        ("diffusers", "LayerExecutionTrackerHook"),
        ("diffusers", "LayerwiseCastingHook"),
        ("diffusers", "PeftInputAutocastDisableHook"),
        ("accelerate", "AlignDevicesHook"),
        ("accelerate", "CpuOffload"),
        ("accelerate", "LayerwiseCastingHook"),
    }
)

# Packages whose functions, as hooks of torch's own kind, work row by row and token by token: they prepare or move weights, or count. The
# WebUI's ("modules") move the parts of a model to the GPU with --lowvram.
TORCH_HOOKS = {"torch", "diffusers", "peft", "torchao", "optimum", "bitsandbytes", "accelerate", "modules", "lib_accel"}

# Forwards on diffusers' layers and blocks: package -> what may be done. Those of diffusers and accelerate run the hooks above.
DIFFUSERS_FORWARDS: dict[str, frozenset[str]] = {"diffusers": _ALL, "accelerate": _ALL}
DIFFUSERS_BLOCKS: dict[str, frozenset[str]] = DIFFUSERS_FORWARDS | {"tomesd": _ALL}
# Forwards that layers and blocks of LDM's and SGM's U-Nets carry themselves: piece of the module's name -> what may be done. These
# libraries, the WebUI with its hypertile (which says itself when it is at work), the Forge family, and ControlNet's IP-Adapter.
HOST_FORWARDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("ldm", "sgm", "modules", "hypertile", "backend", "ldm_patched"), _ALL),
    **dict.fromkeys(("plugable_ipadapter", "controlmodel_ipadapter"), _COMMON),
}
# Whose functions may be in a model's class besides its own package's: those of decorators, and what hosts put there.
_IN_CLASSES = frozenset({"torch", "diffusers", "peft", "accelerate", "functools", "lib_accel", *HOST_FORWARDS})


def package_of(thing: Any) -> str:
    """The package that the class of ``thing`` comes from."""
    return type(thing).__module__.split(".")[0]


def processor_obstacle(layer: nn.Module, ability: str) -> str | None:
    """Why ``ability`` (one of the above) cannot be had of ``layer`` because of its attention processor (a clause), or None."""
    processor = getattr(layer, "processor", None)
    if processor is None:
        return None
    package, name = package_of(processor), type(processor).__name__
    if ability in PROCESSORS.get((package, name), ()):
        return None
    # A name that diffusers has, too, would say the wrong thing.
    of = f" of {package}" if package != "diffusers" and ("diffusers", name) in PROCESSORS else ""
    return Reason.of("processor", "attention processor {name}", name=name + of)


def forward_obstacle(forward: Any, ability: str, known: Mapping[str, frozenset[str]], place: str) -> str | None:
    """Whose ``forward`` does not allow ``ability`` (a clause), or None. known: such as above. place: where it is, for the clause.

    A decorator that gives its function the name of the one that it wraps does not hide it.
    """
    for function in _wrapped(forward):
        home = home_of(function)
        if not any(ability in known.get(piece, ()) for piece in home.split(".")):
            return Reason.of("forward", "a forward from {home} is on {place}", home=home, place=place)
    return None


def own_forward(module: nn.Module, name: str = "forward") -> Any:
    """The forward that ``module`` itself carries, looked up below ours; None where its class's runs, also where it was bound again."""
    forward = module.__dict__.get(name)
    while forward is not None and package_of(forward) == "lib_accel":
        forward = getattr(forward, "previous", None)
    return None if getattr(forward, "__func__", forward) is getattr(type(module), name, None) else forward


def forward_in_class(unet: nn.Module) -> str | None:
    """The module of whoever replaced a forward in the classes of ``unet``, None where nobody did.

    TeaCache and First Block Cache do: what they keep from call to call has as many rows as the call before, and they count calls.
    """
    kinds = [kind for kind in type(unet).__mro__ if not kind.__module__.startswith(("torch.", "builtins"))]
    own = {kind.__module__.partition(".")[0] for kind in kinds} | _IN_CLASSES
    forwards = (value for kind in kinds for name, value in vars(kind).items() if "forward" in name and callable(value))
    homes = (home_of(function) for forward in forwards for function in _wrapped(forward))
    return next((home for home in homes if home.partition(".")[0] not in own), None)


def class_obstacle(unet: nn.Module) -> str | None:
    """Why a call of ``unet`` must run, on all of its rows, because of a forward in its classes (a clause), or None."""
    home = forward_in_class(unet)
    return None if home is None else Reason.of("forward", "a forward from {home} is on {place}", home=home, place="the model's class")


def hook_obstacle(module: nn.Module, place: str) -> str | None:
    """Which unknown hook is on ``module`` or on one of its own (a clause), or None. place: its name."""
    for path, holder in _with_children(module, place):
        for name, hook in hooks_on(holder):
            if (package_of(hook), type(hook).__name__) not in HOOKS:
                return hook_on(name, hook, path)
        stranger = torch_hook_obstacle(holder, path)
        if stranger:
            return stranger
    return None


def torch_hook_obstacle(module: nn.Module, place: str, inside_ours: bool = False) -> str | None:
    """Which unknown hook of torch's own kind is on ``module`` (a clause), or None. place: its name.

    inside_ours: only those that come between hooks of ours and the forward; the others see what nothing was left out of.
    """
    if not module._forward_pre_hooks and not module._forward_hooks:
        # Most modules of a model, which are all looked at.
        return None
    before, after = list(module._forward_pre_hooks.values()), list(module._forward_hooks.values())
    if inside_ours:
        before, after = _up_to_ours(before[::-1]), _up_to_ours(after)
    homes = (home_of(hook) for hook in (*before, *after))
    home = next((home for home in homes if home.partition(".")[0] not in TORCH_HOOKS), None)
    return None if home is None else Reason.of("torch_hook", "a hook from {home} is on {place}", home=home, place=place)


def _up_to_ours(hooks: list[Any]) -> list[Any]:
    """Those of ``hooks`` that come before the first of ours; none where there is none of ours."""
    places = [place for place, hook in enumerate(hooks) if home_of(hook).startswith("lib_accel.engine.")]
    return hooks[: places[0]] if places else []


def hook_on(name: str, hook: Any, place: str) -> Reason:
    """That ``hook``, called ``name``, is on ``place``."""
    return Reason.of("hook", "the hook {name} of {package} is on {place}", name=name, package=package_of(hook), place=place)


def layer_has(name: str) -> Reason:
    """That an attention layer has a part that ours do without."""
    return Reason.of("layer_has", "the attention layer has {name}", name=name)


def hooks_on(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(name, hook) of every hook of diffusers and accelerate on ``module`` now. A registry that was emptied holds none."""
    registry = module.__dict__.get("_diffusers_hook")
    yield from (getattr(registry, "hooks", None) or {}).items()
    hook = module.__dict__.get("_hf_hook")
    for one in getattr(hook, "hooks", (hook,)):
        if one is not None:
            yield type(one).__name__, one


def _with_children(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """``module``, its projections and what they are made of."""
    yield place, module
    for name, child in module._modules.items():
        if child is not None:
            yield f"{place}.{name}", child
            for below, grandchild in child._modules.items():
                if grandchild is not None:
                    yield f"{place}.{name}.{below}", grandchild


def _wrapped(forward: Any) -> Iterator[Any]:
    """``forward`` and what it wraps, by functools' own word."""
    seen = 0
    while forward is not None and seen < 20:
        yield forward
        forward, seen = getattr(forward, "__wrapped__", None), seen + 1


def home_of(function: Any) -> str:
    """The module in whose code ``function`` stands, or that its class comes from."""
    function = getattr(function, "func", function)  # functools.partial
    function = getattr(function, "__func__", function)
    names = getattr(function, "__globals__", None)
    return str(names.get("__name__", "?")) if names is not None else type(function).__module__
