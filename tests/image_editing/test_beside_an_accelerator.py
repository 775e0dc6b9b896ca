"""`edit_images` while the caller's own accelerator is at work: it stands aside, and goes on afterwards, whatever happened meanwhile."""

import diffusers
import guided
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import TGate, TokenMerging, accelerated, edit_images, is_patched

SOURCE, SQUARE = "a red circle on a gray wall", "a red square on a gray wall"
SMALL = {"steps": 2, "width": 64, "height": 64, "guidance": 5.0}
MERGING = TokenMerging(max_downsample=2)


@pytest.fixture(scope="module")
def edited(pipe):
    """Without an accelerator."""
    return [picture.tobytes() for picture in edit_images(pipe, SOURCE, SQUARE, 1, **SMALL)]


def edits(pipe, **more):
    return [picture.tobytes() for picture in edit_images(pipe, SOURCE, SQUARE, 1, **SMALL, **more)]


def drawn(pipe, **more):
    given = {"num_inference_steps": 2, "guidance_scale": 5.0, "width": 64, "height": 64, "output_type": "latent"}
    return pipe(SOURCE, generator=torch.Generator().manual_seed(1), **(given | more)).images


def hooks(pipe):
    return {name: (len(module._forward_pre_hooks), len(module._forward_hooks)) for name, module in pipe.unet.named_modules()}


def stood_down(accelerator):
    return guided.codes(accelerator.report().as_dict())


def test_it_goes_on_after_edits(pipe, edited):
    plain, before = drawn(pipe), fingerprint(pipe.unet)
    with accelerated(pipe, MERGING) as accelerator:
        fast = drawn(pipe)
        between = hooks(pipe)
        assert stood_down(accelerator) == []
        assert edits(pipe) == edited
        assert hooks(pipe) == between
        assert torch.equal(drawn(pipe), fast)
        assert stood_down(accelerator) == ["aside"]
        assert accelerator.report().as_dict()["unet_calls"] == 4
    assert not torch.equal(fast, plain)
    assert not differences(before, fingerprint(pipe.unet))
    assert torch.equal(drawn(pipe), plain)


def test_it_goes_on_after_an_error(pipe, monkeypatch):
    def failing(*_, **__):
        raise RuntimeError("no pictures today")

    with accelerated(pipe, MERGING) as accelerator:
        fast = drawn(pipe)
        monkeypatch.setattr(pipe.vae, "decode", failing)
        with pytest.raises(RuntimeError, match="no pictures today"):
            edits(pipe)
        monkeypatch.undo()
        assert torch.equal(drawn(pipe), fast)
        assert accelerator.report().as_dict()["unet_calls"] == 4
    assert not is_patched(pipe)


def test_edits_in_the_middle_of_a_pass(pipe, edited):
    """A callback edits with a pipeline of its own schedule: T-GATE serves on from what it kept before."""
    other = diffusers.StableDiffusionPipeline.from_pipe(pipe, scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config))
    other.set_progress_bar_config(disable=True)

    def callback(pipe, index, timestep, tensors):
        if index == 1:
            assert edits(other) == edited
        return {}

    with accelerated(pipe, TGate(gate_step=1)) as accelerator:
        gated = drawn(pipe, num_inference_steps=4)
        assert torch.equal(drawn(pipe, num_inference_steps=4, callback_on_step_end=callback), gated)
    assert accelerator.report().as_dict()["methods"][0]["unguided_steps"] == 6
    assert not is_patched(pipe)


def test_edits_within_edits(pipe, edited):
    """What the outer edit's accelerator stood aside for gives it the U-Net back, and that the caller's."""
    again = []

    other = diffusers.StableDiffusionPipeline.from_pipe(pipe, scheduler=type(pipe.scheduler).from_config(pipe.scheduler.config))
    other.set_progress_bar_config(disable=True)
    own = pipe.scheduler.step

    def step(*args, **kwargs):
        if not again:
            again.append(edits(other))
        return own(*args, **kwargs)

    with accelerated(pipe, MERGING) as accelerator:
        fast = drawn(pipe)
        pipe.scheduler.step = step
        try:
            assert edits(pipe) == edited
        finally:
            del pipe.scheduler.step
        assert again == [edited]
        assert torch.equal(drawn(pipe), fast)
        assert accelerator.report().as_dict()["unet_calls"] == 4


def test_a_generator_whose_accelerator_ends_while_edits_are_drawn(pipe):
    """An accelerator that was removed meanwhile does not come back; one that was put on meanwhile stays."""

    def pictures():
        with accelerated(pipe, MERGING):
            while True:
                yield drawn(pipe)

    for put in (False, True):
        users, kept = pictures(), []
        next(users)

        own = pipe.scheduler.step

        def step(*args, own=own, users=users, kept=kept, put=put, **kwargs):
            users.close()
            if put and not kept:
                kept.append(accelerated(pipe, TGate(gate_step=1)))
            return own(*args, **kwargs)

        pipe.scheduler.step = step
        try:
            edits(pipe)
        finally:
            del pipe.scheduler.step
        assert is_patched(pipe) is put
        for accelerator in kept:
            accelerator.remove()
    assert not is_patched(pipe)


def test_an_accelerator_that_finds_another_in_its_place_is_replaced(pipe):
    kept = []
    own = pipe.scheduler.step

    def step(*args, **kwargs):
        kept.append(accelerated(pipe, TGate(gate_step=1)))
        return own(*args, **kwargs)

    with accelerated(pipe, MERGING) as accelerator:
        pipe.scheduler.step = step
        try:
            edits(pipe)
        finally:
            del pipe.scheduler.step
        assert stood_down(accelerator) == ["replaced"]
        assert is_patched(pipe)
    assert is_patched(pipe)
    kept[-1].remove()
    assert not is_patched(pipe)


def test_a_patch_goes_on_too(pipe, edited):
    from lib_accel import apply_patch, remove_patch

    apply_patch(pipe, sx=4, sy=4, ratio=0.4, agent_ratio=0.95)
    assert edits(pipe) == edited
    assert is_patched(pipe)
    remove_patch(pipe)
    assert not is_patched(pipe)
