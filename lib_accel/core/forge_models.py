"""What the Forge family of WebUIs holds its U-Net in. Nothing of theirs is imported.

Every host of the family keeps a ``forge_objects`` on its model; the U-Net's patcher in it comes and goes with every pass, the module stays.
"""

from __future__ import annotations

from typing import Any

# By the mixin of ComfyUI's `model_sampling` (reForge), what its `prediction_type` (Forge, Neo) is called.
_SAMPLING = {"V_PREDICTION": "v_prediction", "EDM": "edm", "CONST": "const", "EPS": "epsilon"}


def patcher_of(model: Any) -> Any:
    """The U-Net's patcher of a model of the Forge family; None for any other model."""
    return getattr(getattr(model, "forge_objects", None), "unet", None)


def wrapper_of(model: Any) -> Any:
    """The module around the U-Net: of such a model, of a patcher, or ``model`` itself; None where there is none."""
    patcher = patcher_of(model)
    for one in (getattr(patcher, "model", None), getattr(model, "model", None), model):
        if getattr(one, "diffusion_model", None) is not None:
            return one
    return None


def prediction_type(model: Any) -> str | None:
    """What the U-Net predicts, in diffusers' words or a word that nobody here knows (``edm``); None when the model does not say."""
    wrapper = wrapper_of(model)
    told = getattr(getattr(wrapper, "predictor", None), "prediction_type", None)
    if isinstance(told, str):
        return told
    classes = [c.__name__ for c in type(getattr(wrapper, "model_sampling", None)).__mro__]
    return next((kind for name, kind in _SAMPLING.items() if name in classes), None)
