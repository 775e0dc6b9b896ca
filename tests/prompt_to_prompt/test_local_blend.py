"""Masks from maps, blending of latents and pictures, and what the method sums them from."""

from dataclasses import replace

import models
import numpy as np
import prompts
import pytest
import torch
from PIL import Image

from lib_accel import ImageEdit, LocalBlend, PromptToPrompt, Row, accelerated
from lib_accel.prompt_to_prompt import AlignedBlend, Edit, blended, composite, edit_mask, feathered, mix, word_mask

TOKENS = prompts.Words(8)
STREAMS = [TOKENS("a cat on sand"), TOKENS("a dog on sand")]
ROWS = [Row("cond", 0), Row("cond", 1), Row("uncond", 0), Row("uncond", 1)]


def spot(h, w, y, x, value=1.0):
    heat = torch.zeros(h, w)
    heat[y, x] = value
    return heat


def test_a_mask_is_where_the_map_exceeds_the_threshold_of_its_maximum():
    heat = torch.tensor([[0.0, 0.2, 0.4, 1.0]]) * 7
    assert word_mask(heat, (1, 4), 0.3, pool=False).tolist() == [[0, 0, 1, 1]]
    assert word_mask(heat, (1, 4), 0.3).tolist() == [[0, 1, 1, 1]]
    assert word_mask(heat, (1, 8), 0.3, pool=False).tolist() == [[0, 0, 0, 0, 1, 1, 1, 1]]


def test_grids_need_not_be_square():
    mask = word_mask(spot(4, 6, 1, 5), (8, 12), 0.3)
    assert mask.shape == (8, 12)
    assert mask.nonzero().amin(0).tolist() == [0, 8]
    assert mask.nonzero().amax(0).tolist() == [5, 11]


def test_a_map_of_zeros_lets_nothing_change():
    assert not word_mask(torch.zeros(4, 4), (8, 8), 0.3).any()


def test_an_edit_may_change_its_own_and_the_sources_place_but_not_what_is_subtracted():
    none = torch.zeros(8, 8)
    source, edited = torch.stack([spot(8, 8, 1, 1), none]), torch.stack([spot(8, 8, 6, 6), spot(8, 8, 6, 7)])
    mask = edit_mask(source, edited, (8, 8), AlignedBlend({}))
    assert mask[1, 1] == mask[6, 6] == mask[5, 5] == 1
    assert mask[6, 7] == mask[3, 3] == 0


def test_outside_the_mask_latents_are_the_sources():
    generator = torch.Generator().manual_seed(0)
    edited, source = torch.randn(2, 4, 8, 8, generator=generator)
    mask = word_mask(spot(8, 8, 3, 3), (8, 8), 0.3)
    out = blended(edited, source, mask)
    assert torch.equal(out[:, mask == 0], source[:, mask == 0])
    torch.testing.assert_close(out[:, mask == 1], edited[:, mask == 1])


def test_a_composite_has_the_sources_pixels_outside_the_feathered_mask():
    rng = np.random.default_rng(0)
    source, edited = (Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)) for _ in range(2))
    mask = spot(8, 12, 4, 6)
    soft = feathered(mask, (64, 96)).numpy()
    out = np.asarray(composite(edited, source, mask))
    assert np.array_equal(out[soft == 0], np.asarray(source)[soft == 0])
    assert np.array_equal(out[soft == 1], np.asarray(edited)[soft == 1])
    assert 0 < soft[soft > 0].min() < 1
    assert (soft[32:40, 48:56] == 1).all()
    with pytest.raises(ValueError, match=r"^source picture is 32x32; it must be 96x64, as the edited one\.$"):
        composite(edited, Image.new("RGB", (32, 32)), mask)


@pytest.fixture(scope="module")
def unet():
    return models.diffusers_unet()


def run(unet, blend, steps=5, total=5, **more):
    """The runner after ``steps``, and what it saw of each."""
    aligned = blend.aligned(STREAMS) if isinstance(blend, LocalBlend) else blend
    method = PromptToPrompt([ImageEdit(1, 0, (mix(*STREAMS, Edit()),), 0.0)], blend=aligned, **more)
    seen = []
    with accelerated(unet, method) as accelerator:
        for index in range(steps):
            accelerator.step(index, total, ROWS)
            given = models.inputs(4, 16, 12)
            given.text = torch.randn(4, 8, models.WIDTH, generator=torch.Generator().manual_seed(index))
            models.call(unet, given)
            seen.append(accelerator.running(PromptToPrompt).masks((16, 12)))
        return accelerator.running(PromptToPrompt), seen


def test_nothing_is_blended_before_the_start(unet):
    _, seen = run(unet, LocalBlend("cat", "dog", start=0.6))
    assert [sorted(masks) for masks in seen] == [[], [], [], [1], [1]]
    assert seen[-1][1].shape == (16, 12)


def test_the_runner_blends_the_batch(unet):
    runner, seen = run(unet, LocalBlend("cat", "dog", threshold=0.9, start=0))
    mask = seen[-1][1]
    assert 0 < mask.mean() < 1
    latents = torch.randn(2, 4, 16, 12)
    out = runner.blend(latents)
    assert torch.equal(out[0], latents[0])
    assert torch.equal(out[1][:, mask == 0], latents[0][:, mask == 0])
    assert torch.equal(out[1][:, mask == 1], latents[0][:, mask == 1] + (latents[1] - latents[0])[:, mask == 1])


def test_a_start_behind_the_last_step_is_told(unet):
    runner = run(unet, LocalBlend("cat", "dog", start=1))[0]
    assert runner.masks((16, 12)) == {}
    assert runner.account.notes == {"no local blend: its start 1 is behind the last of 5 steps"}
    assert not run(unet, LocalBlend("cat", "dog", start=0.8))[0].account.notes


def test_pictures_so_large_that_every_grid_is_are_blended_by_the_coarsest(unet):
    blend = replace(LocalBlend("cat", "dog", start=0).aligned(STREAMS), layers="4")
    _, seen = run(unet, blend)
    assert seen[-1][1].any()


def test_masks_stay_readable_after_the_method_was_taken_off(unet):
    runner, seen = run(unet, LocalBlend("cat", "dog", threshold=0.9, start=0))
    assert torch.equal(runner.masks((16, 12))[1], seen[-1][1])


def test_maps_are_summed_outside_the_windows_too(unet):
    """What the edited row sees then is its own."""
    method = PromptToPrompt([ImageEdit(1, 0, (mix(*STREAMS, Edit(), 0.0),), 0.0)], blend=LocalBlend("cat", "dog", start=0).aligned(STREAMS))
    with accelerated(unet, method) as accelerator:
        accelerator.step(0, 5, ROWS)
        given = models.inputs(4, 16, 16)
        given.text = torch.randn(4, 8, models.WIDTH)
        made = models.call(unet, given)
        assert accelerator.running(PromptToPrompt).masks((16, 16))
    assert torch.equal(made, models.call(unet, given))
