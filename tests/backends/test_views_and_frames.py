"""Pipelines whose U-Net calls are not one per step and picture: views of a panorama, frames of a film. One of each, tiny."""

import diffusers
import guided
import pipelines
import pytest
import torch

from lib_accel import GuidanceSkip, TGate, TokenMerging, accelerated

STEPS = 4


@pytest.fixture(scope="module")
def panorama():
    """Two views per step."""
    built, why = pipelines.build(diffusers.StableDiffusionPanoramaPipeline)
    assert built is not None, why
    built.given |= {"width": 576, "num_inference_steps": STEPS}
    built.plain = built.draw()
    return built


def merged_calls(unet):
    """For every U-Net call from now on whether self-attention ran on fewer tokens than its block's."""
    seen, block, attn = [], *((unet.down_blocks[0].attentions[0].transformer_blocks[0]),) * 2
    given = []
    handles = [
        block.register_forward_pre_hook(
            lambda module, args, kwargs: given.append((args or (kwargs["hidden_states"],))[0].shape[1]), with_kwargs=True
        ),
        attn.attn1.to_q.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1] < given[-1])),
    ]
    return seen, handles


@pytest.mark.parametrize("window, calls", [((0.5, 1), [False] * 4 + [True] * 4), ((0, 0.5), [True] * 4 + [False] * 4)])
def test_windows_of_a_panorama_are_counted_in_steps(panorama, window, calls):
    """The pipeline copies its scheduler's state for every view; that begins no pass."""
    seen, handles = merged_calls(panorama.model)
    with accelerated(panorama.pipe, TokenMerging(window=window)) as accelerator:
        out = panorama.draw()
    for handle in handles:
        handle.remove()
    report = accelerator.report().as_dict()
    assert seen == calls
    assert (report["passes"], report["steps"], report["unet_calls"], report["methods"][0]["steps"]) == (1, STEPS, 2 * STEPS, 2)
    assert not torch.equal(out, panorama.plain)


def test_views_keep_all_rows_and_are_served_their_own(panorama):
    ran = guided.rows_run(panorama.model)
    with accelerated(panorama.pipe, GuidanceSkip(when="after", after=0.5)) as accelerator:
        assert torch.equal(panorama.draw(), panorama.plain)
    assert guided.account(accelerator)["evaluations_saved"] == 0 and guided.account(accelerator)["reasons"]
    with accelerated(panorama.pipe, TGate(gate_step=STEPS - 1)) as accelerator:
        panorama.draw()
    assert guided.account(accelerator)["steps"] == 1
    assert ran == [2] * 4 * STEPS


@pytest.mark.parametrize("method", [TGate(gate=0.5), GuidanceSkip(when="after", after=0.5), TokenMerging()], ids=lambda m: type(m).__name__)
def test_frames_of_a_film_are_left_alone(film, method):
    """Texts have rows x frames there: nothing is cut, and the report says why."""
    ran = guided.rows_run(film.model)
    with accelerated(film.pipe, method) as accelerator:
        assert torch.equal(film.draw(), film.plain)
    assert ran == [4] * STEPS
    assert guided.account(accelerator)["reasons"]


@pytest.fixture(scope="module")
def film():
    built, why = pipelines.build(diffusers.AnimateDiffPipeline)
    assert built is not None, why
    built.plain = built.draw()
    return built
