"""Every guider of Modular Diffusers that can be built, with every method: what is said is what was counted, and off is exact."""

import inspect

import models
import pipelines
import pytest
import torch
from complaints import METHODS, complaints

guiders = pytest.importorskip("diffusers.guiders")
BLOCKS = "down_blocks.1.attentions.0.transformer_blocks"


def classes():
    """The guiders of the installed diffusers."""
    base = guiders.BaseGuidance
    found = (one for one in vars(guiders).values() if inspect.isclass(one) and issubclass(one, base) and one is not base)
    return sorted(found, key=lambda one: one.__name__)


def built_with(kind):
    """SDXL's modular pipeline with a guider ``kind``; None where a plain call of it does not work."""
    from diffusers import StableDiffusionXLAutoBlocks
    from diffusers.hooks import LayerSkipConfig
    from diffusers.hooks.smoothed_energy_guidance_utils import SmoothedEnergyGuidanceConfig

    scores = LayerSkipConfig(indices=[0], fqn=BLOCKS, skip_attention=False, skip_attention_scores=True, skip_ff=False)
    for more in (
        {},
        {"perturbed_guidance_config": scores, "perturbed_guidance_start": 0.0},
        {"skip_layer_config": LayerSkipConfig(indices=[0], fqn=BLOCKS), "skip_layer_guidance_start": 0.0},
        {"seg_guidance_config": SmoothedEnergyGuidanceConfig([0], BLOCKS), "seg_guidance_start": 0.0},
    ):
        try:
            pipe = StableDiffusionXLAutoBlocks().init_pipeline()
            parts = {"unet": models.diffusers_unet_sdxl(), "vae": models.vae(), "scheduler": models.scheduler("EulerDiscreteScheduler")}
            parts |= {"guider": kind(**more)} | {name: pipelines.text_part(name) for name in pipelines.TEXT_PARTS}
            pipe.update_components(**parts)
            pipe.set_progress_bar_config(disable=True)
            given = {"prompt": pipelines.TEXT, "num_inference_steps": 4, "height": 64, "width": 64}
            built = pipelines.Built(pipe, given | {"output": "images", "output_type": "latent"})
            built.draw()
            return built
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
    print(kind.__name__, why)
    return None


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_every_guider(kind):
    built = built_with(kind)
    if built is None:
        assert kind.__name__ not in ("ClassifierFreeGuidance", "PerturbedAttentionGuidance", "SkipLayerGuidance")
        pytest.skip("a plain call of it does not work")
    assert torch.isfinite(built.draw()).all()
    for method in METHODS:
        assert complaints(built, method) == [], type(method).__name__
