"""Models are held by weak references only."""

import gc
import weakref

import models
import pytest

from lib_accel import TokenMerging, accelerated, apply_patch, remove_patch

both = pytest.mark.parametrize("kind", models.BOTH)


@both
@pytest.mark.parametrize("end", ["patched", "removed", "interrupted"])
def test_a_model_is_freed(kind, end):
    unet = models.UNETS[kind]()
    alive = [weakref.ref(unet), *(weakref.ref(module) for name, module in unet.named_modules() if name.endswith(("attn1", "ff")))]
    accelerator = accelerated(unet, TokenMerging(plan_every=5))
    models.call(unet)
    if end == "removed":
        accelerator.remove()
    if end == "interrupted":
        layer = next(module for name, module in unet.named_modules() if name.endswith("attn2"))
        layer.register_forward_hook(interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.call(unet)
        del layer
    del unet
    gc.collect()
    assert not any(reference() for reference in alive)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 3
    assert accelerator.report().as_dict()["methods"][0]["layers_by_effect"] == {"merging": 3}
    accelerator.sweep()
    accelerator.remove()


def interrupted(*_):
    raise KeyboardInterrupt


@both
def test_a_model_is_freed_after_the_two_functions(kind):
    unet = models.UNETS[kind]()
    alive = weakref.ref(unet)
    apply_patch(unet)
    models.call(unet)
    remove_patch(unet)
    apply_patch(unet)
    del unet
    gc.collect()
    assert alive() is None


def test_a_pipeline_is_freed():
    pipe = models.pipeline()
    alive = [weakref.ref(pipe), weakref.ref(pipe.unet)]
    accelerator = accelerated(pipe, TokenMerging())
    models.picture(pipe, steps=2)
    del pipe
    gc.collect()
    assert not any(reference() for reference in alive)
    assert accelerator.report().as_dict()["steps"] == 2
    assert accelerator.sites


def test_an_accelerator_without_its_pipeline_still_acts_on_the_unet():
    unet = models.diffusers_unet()
    accelerator = accelerated(models.pipeline(unet), TokenMerging())
    gc.collect()
    models.call(unet)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 3


def test_an_accelerator_that_was_removed_is_not_entered_again():
    """Whatever is drawn inside would silently be drawn without it."""
    unet = models.ldm_unet()
    accelerator = accelerated(unet, TokenMerging())
    with accelerator, accelerated(unet, TokenMerging(ratio=0.3)):
        pass
    with pytest.raises(RuntimeError, match="was removed and does nothing more"), accelerator:
        pass
    accelerator.remove()


def test_the_outermost_block_removes():
    unet = models.ldm_unet()
    with accelerated(unet, TokenMerging()) as accelerator:
        with accelerator:
            models.call(unet)
        models.call(unet)
        assert accelerator.report().as_dict()["unet_calls"] == 2
    with pytest.raises(RuntimeError, match="was removed"), accelerator:
        pass
