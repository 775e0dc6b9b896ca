"""Any number of rows, any size, any dtype."""

import cases
import guided
import models
import pytest
import torch

from lib_accel import AgentAttention, TokenMerging, accelerated

every_method = pytest.mark.parametrize("method", ["agents", "downsampling", "everywhere"])


def rows_of(given, rows):
    return models.SimpleNamespace(**{key: value[rows] for key, value in vars(given).items()})


@pytest.mark.parametrize("kind", models.UNETS)
@every_method
def test_separate_calls_give_the_rows_of_one_call(kind, method):
    """cond and uncond together, separately, cond alone, an odd number of rows: every row gets the same."""
    unet = models.UNETS[kind]()
    given = models.inputs(rows=3)
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        together = models.call(unet, given)
        for rows in ([0], [1], [2], [1, 2], [2, 0]):
            accelerator.new_pass()
            torch.testing.assert_close(models.call(unet, rows_of(given, rows)), together[rows], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", models.BOTH)
def test_plans_kept_for_steps_belong_to_rows(kind):
    """With plan_every, cond and uncond in calls of their own do what they do in one call."""
    unet = models.UNETS[kind]()
    given = [models.inputs(timestep=t) for t in (999, 800, 600, 400)]
    with accelerated(unet, TokenMerging(plan_every=3)) as accelerator:
        together = [models.call(unet, one) for one in given]
        accelerator.new_pass()
        apart = [torch.cat([models.call(unet, rows_of(one, [row])) for row in (0, 1)]) for one in given]
    for one, other in zip(together, apart):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


@every_method
@pytest.mark.parametrize("size", [(33, 45), (5, 7), (1, 3), (2, 2), (8, 40)])
def test_diffusers_sizes(size, method):
    for build in (models.diffusers_unet, models.diffusers_unet_sdxl):
        unet = build()
        given = models.inputs(2, *size)
        plain = models.call(unet, given)
        with accelerated(unet, *cases.METHODS[method]):
            enabled = models.call(unet, given)
        assert enabled.shape == plain.shape
        assert torch.isfinite(enabled).all()
        assert min(size) < 8 or not torch.allclose(enabled, plain, atol=1e-3)
        assert torch.equal(models.call(unet, given), plain)


@every_method
@pytest.mark.parametrize("size", [(4, 4), (8, 24), (36, 20)])
def test_ldm_sizes(size, method):
    unet = models.ldm_unet()
    given = models.inputs(2, *size)
    plain = models.call(unet, given)
    with accelerated(unet, *cases.METHODS[method]):
        enabled = models.call(unet, given)
    assert torch.isfinite(enabled).all()
    assert not torch.allclose(enabled, plain, atol=1e-3)
    assert torch.equal(models.call(unet, given), plain)


@every_method
@pytest.mark.parametrize("size", [(13, 7), (1, 9), (33, 45)])
def test_odd_grids_at_an_ldm_transformer(size, method):
    """Without down-sampling an LDM U-Net takes any size, as the WebUI's does at every level."""
    unet = models.ldm_unet(channel_mult=[1], attention_resolutions=[1])
    given = models.inputs(2, *size)
    plain = models.call(unet, given)
    with accelerated(unet, *cases.METHODS[method]):
        enabled = models.call(unet, given)
    assert torch.isfinite(enabled).all()
    assert 1 in size or not torch.allclose(enabled, plain, atol=1e-3)


def test_a_grid_smaller_than_a_cell_is_reported():
    unet = models.diffusers_unet()
    with accelerated(unet, TokenMerging(sx=4, sy=4)) as accelerator:
        models.call(unet, models.inputs(2, 3, 9))
    assert guided.layers_why(accelerator.report().as_dict()["methods"][0]) == {("nothing_to_merge", 3, 9): 3}


@pytest.mark.parametrize("kind", models.BOTH)
def test_the_size_may_change_from_call_to_call(kind):
    unet = models.UNETS[kind]()
    sizes = [(16, 16), (32, 16), (16, 32), (16, 16)]
    with accelerated(unet, AgentAttention(plan_every=4, window=(0, 1))) as accelerator:
        apart = []
        for size in sizes:
            accelerator.new_pass()
            apart.append(models.call(unet, models.inputs(2, *size)))
        accelerator.new_pass()
        for size, alone in zip(sizes, apart):
            assert torch.equal(models.call(unet, models.inputs(2, *size)), alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", models.UNETS)
@pytest.mark.parametrize("method", ["agents", "everywhere"])
def test_half_precision(kind, method, dtype, monkeypatch):
    models.need(dtype)
    # LDM's own attention mixes float32 and half precision, which CPUs refuse.
    monkeypatch.setattr("ldm.modules.attention.CrossAttention.forward", models.host_forward([]))
    unet = models.in_dtype(models.UNETS[kind](), dtype)
    given = models.inputs(2, 8, 8, dtype=dtype)
    plain = models.call(unet, given)
    with accelerated(unet, *cases.METHODS[method]):
        enabled = models.call(unet, given)
    assert enabled.dtype == plain.dtype
    assert torch.isfinite(enabled).all()
    assert not torch.equal(enabled, plain)
    assert torch.equal(models.call(unet, given), plain)


@pytest.mark.parametrize("kind", models.BOTH)
@every_method
def test_autocast(kind, method):
    """Norms give float32 and projections half precision there."""
    unet = models.UNETS[kind]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = models.call(unet)
        with accelerated(unet, *cases.METHODS[method]):
            enabled = models.call(unet)
    assert enabled.dtype == plain.dtype
    assert torch.isfinite(enabled).all()
    assert not torch.equal(enabled, plain)
