"""Rows are cut only where it is known whose they are and that all that takes part works row by row; the report says why not."""

import diffusers
import guided
import models
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from lib_accel import GuidanceSkip, TGate, accelerated

SKIP, GATE = GuidanceSkip(when="after", after=0.5), TGate(gate=0.5)
METHODS = {"GuidanceSkip": SKIP, "TGate": GATE}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
PICTURE = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def notes(accelerator):
    return guided.codes(guided.account(accelerator))


# -- whose call it is ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionPAGPipeline"])
def test_a_sibling_is_not_taken_for_the_accelerated_pipeline(kind):
    """It shares the U-Net, and says itself whether it guides."""
    pipe = models.pipeline()
    sibling = getattr(diffusers, kind).from_pipe(pipe)
    sibling.set_progress_bar_config(disable=True)
    given = models.prompt(2) | {"guidance_scale": 1.0} | ({"image": PICTURE, "strength": 1.0} if "Img2Img" in kind else {})
    plain = models.picture(sibling, 4, **given)
    with accelerated(pipe, SKIP) as accelerator:
        models.picture(pipe, 4)
        saved = guided.account(accelerator)["evaluations_saved"]
        ran = guided.rows_run(pipe.unet)
        assert torch.equal(models.picture(sibling, 4, **given), plain)
    assert saved == 2
    assert set(ran) == ({4} if "PAG" in kind else {2})
    assert guided.account(accelerator)["evaluations_saved"] == saved


def test_a_sibling_is_placed_in_its_own_schedule():
    pipe = models.pipeline()
    sibling = diffusers.StableDiffusionPipeline(**pipe.components | {"scheduler": models.scheduler("EulerDiscreteScheduler")})
    sibling.set_progress_bar_config(disable=True)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, SKIP):
        models.picture(pipe, 4)
        ran.clear()
        models.picture(sibling, 6)
        models.picture(pipe, 4)
    assert ran == [2, 2, 2, 1, 1, 1, 2, 2, 1, 1]


@pytest.mark.parametrize("scale", [5.0, 1.0])
def test_calls_by_hand_after_a_run_keep_their_rows(scale):
    """Two rows of somebody's own, in the schedule that the pipeline has left."""
    pipe = models.pipeline()
    models.picture(pipe, 4)
    plain = models.one_pass(pipe.unet, pipe.scheduler.timesteps.tolist())
    with accelerated(pipe, SKIP) as accelerator:
        models.picture(pipe, 4, guidance_scale=scale)
        assert torch.equal(models.one_pass(pipe.unet, pipe.scheduler.timesteps.tolist()), plain)
    assert "guidance_kept: called_by_hand" in notes(accelerator)


def test_calls_by_a_callback_in_the_loop_keep_their_rows():
    pipe = models.pipeline()
    inner = []

    def callback(pipe, index, timestep, tensors):
        inner.append(models.call(pipe.unet, models.inputs(timestep=1)))
        return tensors

    plain = models.picture(pipe, 4, callback_on_step_end=callback)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, SKIP) as accelerator:
        assert not torch.equal(models.picture(pipe, 4, callback_on_step_end=callback), plain)
    assert ran == [2, 2, 2, 2, 1, 2, 1, 2]
    assert all(torch.equal(out, inner[0]) for out in inner)
    assert guided.account(accelerator)["unguided_steps"] == 2


class TwiceAStep(diffusers.StableDiffusionPipeline):
    """Writes, then reads, as reference-only pipelines do; the second call has fewer rows."""

    def __call__(self, prompt_embeds, negative_prompt_embeds, num_inference_steps, generator, guidance_scale, **_):
        self._guidance_scale = guidance_scale
        self.scheduler.set_timesteps(num_inference_steps)
        text = torch.cat([negative_prompt_embeds, prompt_embeds])
        latents = torch.randn(1, 4, 16, 16, generator=generator)
        for timestep in self.scheduler.timesteps:
            written = self.unet(torch.cat([latents] * 2), timestep, text).sample[0]
            read = self.unet(latents, timestep, prompt_embeds).sample
            latents = self.scheduler.step(read + 0.1 * written, timestep, latents).prev_sample
        return models.SimpleNamespace(images=latents)


@methods
def test_a_pipeline_with_a_loop_of_its_own_is_not_cut(method):
    pipe = TwiceAStep(**models.pipeline().components)
    with torch.no_grad():
        ran = guided.rows_run(pipe.unet)
        plain = models.picture(pipe, 4)
        with accelerated(pipe, method) as accelerator:
            out = models.picture(pipe, 4)
    assert ran == 2 * 4 * [2, 1]
    assert method is GATE or torch.equal(out, plain)
    assert "guidance_kept: order_unknown" in notes(accelerator)


def test_a_subclass_with_the_loop_of_its_parent_is_cut():
    class Mine(diffusers.StableDiffusionPipeline):
        def __call__(self, **given):
            return super().__call__(**given)

    pipe = Mine(**models.pipeline().components)
    pipe.set_progress_bar_config(disable=True)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, SKIP):
        models.picture(pipe, 4)
    assert ran == [2, 2, 1, 1]


# -- what takes part -------------------------------------------------------------------------------------------------------------


class Sharing:
    """Style sharing: the second half of the rows is given something of the first."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        out = AttnProcessor2_0()(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        first, second = out.chunk(2)
        return torch.cat([first, 0.5 * (first + second)])


@methods
@pytest.mark.parametrize("images", [1, 4])
def test_a_processor_that_pairs_rows_gets_all_of_them(method, images):
    pipe = models.pipeline()
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn1"):
            module.set_processor(Sharing())
    given = models.prompt(images)
    plain = models.picture(pipe, 4, **given)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, method) as accelerator:
        out = models.picture(pipe, 4, **given)
    assert ran == [2 * images] * 4
    assert method is GATE or torch.equal(out, plain)
    assert "guidance_kept: processor" in notes(accelerator)


@methods
@pytest.mark.parametrize("first", ["Accel", "DeepCache"])
def test_a_helper_that_keeps_features_of_all_rows(method, first):
    """DeepCache's helper; once disabled it leaves forwards behind that are the layers' own."""
    helper_class = pytest.importorskip("DeepCache").DeepCacheSDHelper
    pipe = models.pipeline()
    helper = helper_class(pipe)
    helper.set_params(cache_interval=3, cache_branch_id=0)
    ran = guided.rows_run(pipe.unet)
    if first == "DeepCache":
        helper.enable()
    with accelerated(pipe, method) as accelerator:
        if first == "Accel":
            helper.enable()
        models.picture(pipe, 6)
        assert ran == [2] * 6
        assert "guidance_kept: forward" in notes(accelerator)
        helper.disable()
        ran.clear()
        models.picture(pipe, 6)
    assert ran == [2] * 3 + [1] * 3


def test_weights_that_are_moved_do_not_keep_rows():
    accelerate = pytest.importorskip("accelerate")
    pipe = models.pipeline()
    accelerate.cpu_offload(pipe.vae, torch.device("cpu"))
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, SKIP) as accelerator:
        models.picture(pipe, 4)
    assert notes(accelerator) == []
    assert ran == [2, 2, 1, 1]


def test_layerwise_casting_does_not_keep_rows():
    pipe = models.pipeline()
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    ran = guided.rows_run(pipe.unet)
    with accelerated(pipe, SKIP) as accelerator:
        models.picture(pipe, 4)
    assert notes(accelerator) == []
    assert ran == [2, 2, 1, 1]


# -- what is given ---------------------------------------------------------------------------------------------------------------


def test_masks_of_an_ip_adapter_are_not_rows():
    """[adapters, 1, h, w]: two of them are not the two rows of a guided picture."""
    pipe = models.pipeline()
    masks = [torch.ones(2, 1, 16, 16)]
    ran = guided.rows_run(pipe.unet)
    seen = []
    pipe.unet.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["cross_attention_kwargs"]), with_kwargs=True)
    with accelerated(pipe, SKIP):
        pipe.unet.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs["cross_attention_kwargs"]), with_kwargs=True)
        models.picture(pipe, 4, cross_attention_kwargs={"ip_adapter_masks": masks})
    assert ran == [2, 2, 1, 1]
    assert all(given["ip_adapter_masks"][0].shape == (2, 1, 16, 16) for given in seen)


@pytest.mark.parametrize(
    "given, reason",
    [
        ({"encoder_hidden_states": torch.zeros(8, models.TEXT, models.WIDTH)}, "encoder_hidden_states has 8 rows, the latents have 2"),
        ({"cross_attention_kwargs": {"regions": torch.zeros(2, 4)}}, "argument cross_attention_kwargs.regions has to do with rows"),
        ({"added_cond_kwargs": {"image_embeds": [object()]}}, "argument added_cond_kwargs.image_embeds holds more than tensors"),
        ({"added_cond_kwargs": {"text_embeds": torch.zeros(2, 4)}, "cross_attention_kwargs": {"scale": 0.5}}, None),
        ({"down_block_additional_residuals": (torch.zeros(2, 4, 1, 1), torch.zeros(1, 4, 1, 1))}, None),
        ({"return_dict": False, "timestep_cond": torch.zeros(2, 4)}, None),
    ],
)
def test_arguments(given, reason):
    from lib_accel.backends import row_safety

    unet = models.diffusers_unet()
    told = row_safety.obstacle(unet, (torch.zeros(2, 4, 8, 8), torch.tensor(1)), given, 2)
    assert (told is None) if reason is None else (reason in told)
    if reason is None:
        args, kwargs = row_safety.cut(unet, (torch.zeros(2, 4, 8, 8), torch.tensor(1)), given, 2, [1])
        assert len(args[0]) == 1 and args[1].ndim == 0
        assert {len(one) for one in kwargs.get("down_block_additional_residuals", ())} <= {1}


def test_a_call_that_somebody_replaced_and_passes_on_is_the_pipelines_own_loop(monkeypatch):
    own = diffusers.StableDiffusionPipeline.__call__

    def replaced(self, *args, **given):
        return own(self, *args, **given)

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "__call__", replaced)
    pipe = models.pipeline()
    with accelerated(pipe, SKIP) as accelerator:
        models.picture(pipe, 4)
    assert guided.account(accelerator)["evaluations_saved"] == 2
