"""Where a call stands in its pass: windows are fractions of the pass that really runs, whoever tells the step."""

import models
import pytest
import torch

from lib_accel import AgentAttention, Row, TokenMerging, accelerated

STAGES = (AgentAttention(window=(0, 0.4)), TokenMerging(window=(0.4, 1)))
AGENTS, MERGED = 154, 128  # tokens that the first self-attention runs on, of 256


def watch(unet):
    """The tokens that the first self-attention of every U-Net call runs on."""
    seen = []
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1.to_out.0"))
    layer.register_forward_hook(lambda module, args, out: seen.append(out.shape[1]))
    return seen


@pytest.mark.parametrize(
    ("schedule", "steps", "agents", "merged"),
    [
        ("DDIMScheduler", 5, 2, 3),
        ("DDIMScheduler", 6, 3, 3),
        ("DDIMScheduler", 10, 4, 6),
        ("EulerDiscreteScheduler", 5, 2, 3),
        ("EulerAncestralDiscreteScheduler", 5, 2, 3),
        ("DPMSolverMultistepScheduler", 5, 2, 3),
        ("UniPCMultistepScheduler", 5, 2, 3),
        ("LCMScheduler", 5, 2, 3),
        ("HeunDiscreteScheduler", 5, 3, 6),
    ],
)
def test_windows_follow_the_schedule(schedule, steps, agents, merged):
    """Heun's second evaluation of a step is at the next timestep, and counts to it."""
    pipe = models.pipeline(schedule=schedule)
    seen = watch(pipe.unet)
    with accelerated(pipe, *STAGES) as accelerator:
        first = models.picture(pipe, steps)
        assert seen == [AGENTS] * agents + [MERGED] * merged
        report = accelerator.report().as_dict()
        assert (report["passes"], report["steps"], report["unet_calls"]) == (1, steps, agents + merged)
        assert torch.equal(models.picture(pipe, steps), first)
        assert seen == 2 * ([AGENTS] * agents + [MERGED] * merged)
        report = accelerator.report().as_dict()
        assert (report["passes"], report["steps"], report["unet_calls"]) == (2, 2 * steps, 2 * (agents + merged))


def test_pndm_repeats_a_timestep():
    pipe = models.pipeline()
    pipe.scheduler = models.scheduler("PNDMScheduler", skip_prk_steps=True)
    seen = watch(pipe.unet)
    with accelerated(pipe, *STAGES) as accelerator:
        models.picture(pipe, 5)
    assert seen == [AGENTS] * 3 + [MERGED] * 3
    assert accelerator.report().as_dict()["steps"] == 5


@pytest.mark.parametrize("schedule", ["DDIMScheduler", "HeunDiscreteScheduler"])
def test_img2img_counts_its_own_steps(schedule):
    pipe = models.pipeline(kind="StableDiffusionImg2ImgPipeline", schedule=schedule)
    seen = watch(pipe.unet)
    image = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with accelerated(pipe, *STAGES) as accelerator:
        for run in (1, 2):
            seen.clear()
            models.picture(pipe, 10, image=image, strength=0.5)
            calls = len(seen)
            assert seen == [AGENTS] * seen.count(AGENTS) + [MERGED] * seen.count(MERGED)
            assert abs(seen.count(AGENTS) / calls - 0.4) < 0.15
            report = accelerator.report().as_dict()
            assert (report["passes"], report["unet_calls"]) == (run, run * calls)
            assert report["steps"] in (5 * run, 6 * run)


def test_a_run_that_breaks_off_and_a_later_start():
    """An interrupted run, then img2img that begins further down the schedule than where the first one ended."""
    text = models.pipeline()
    pipe = models.pipeline(text.unet, "StableDiffusionImg2ImgPipeline")
    seen = watch(pipe.unet)

    def stop(pipe, step, timestep, given):
        raise InterruptedError

    with accelerated(pipe, *STAGES) as accelerator:
        with pytest.raises(InterruptedError):
            models.picture(pipe, 10, image=torch.zeros(1, 4, 16, 16), strength=1.0, callback_on_step_end=stop)
        seen.clear()
        models.picture(pipe, 10, image=torch.zeros(1, 4, 16, 16), strength=0.5)
    assert seen == [AGENTS] * 2 + [MERGED] * 3
    assert accelerator.report().as_dict()["passes"] == 2


def test_single_step_runs_are_passes():
    pipe = models.pipeline()
    with accelerated(pipe, TokenMerging()) as accelerator:
        for _ in range(3):
            models.picture(pipe, 1)
    assert accelerator.report().as_dict()["passes"] == 3


def test_tiles_of_one_step_do_not_share_what_is_kept():
    """A panorama calls the U-Net once per tile at every timestep."""
    pipe = models.pipeline()
    models.picture(pipe, 1)  # so that the pipeline tells whose rows it runs
    pipe.scheduler.set_timesteps(4)

    def run(tiles):
        pictures = []
        with accelerated(pipe, TokenMerging(plan_every=4)):
            for timestep in pipe.scheduler.timesteps:
                for factor in tiles:
                    given = models.inputs(timestep=float(timestep))
                    given.latents = given.latents.roll(factor, 2) * factor
                    pictures.append(models.call(pipe.unet, given))
        return torch.stack(pictures)

    both = run([1, -3])
    torch.testing.assert_close(both[0::2], run([1]))
    torch.testing.assert_close(both[1::2], run([-3]))


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionXLPipeline"])
def test_counts_are_exact(kind, guidance):
    xl = "XL" in kind
    pipe = models.pipeline(models.diffusers_unet_sdxl() if xl else None, kind)
    with accelerated(pipe, *STAGES) as accelerator:
        models.picture(pipe, 5, guidance_scale=guidance)
    report = accelerator.report().as_dict()
    agents, merging = report["methods"]
    tokens = 64 if xl else 256
    assert (report["sites"], report["unet_calls"], report["steps"]) == (11 if xl else 7, 5, 5)
    assert (agents["layers"], agents["steps"], agents["layer_calls"]) == (3, 2, 6)
    assert (agents["tokens_in"], agents["tokens_run"]) == (6 * tokens, 6 * (tokens - int(0.4 * tokens)))
    assert (merging["layers"], merging["steps"], merging["layer_calls"]) == (3, 3, 9)
    assert (merging["tokens_in"], merging["tokens_run"]) == (9 * tokens, 9 * tokens // 2)


@pytest.mark.parametrize("kind", models.BOTH)
def test_the_host_is_trusted_most(kind):
    unet = models.UNETS[kind]()
    seen = watch(unet)
    with accelerated(unet, *STAGES) as accelerator:
        for index, timestep in ((0, 1), (1, 999), (2, 998), (2, 3), (3, 500), (4, 999), (0, 0), (1, 0)):
            accelerator.step(index, 5)
            models.call(unet, models.inputs(timestep=timestep))
    assert seen == [AGENTS] * 2 + [MERGED] * 4 + [AGENTS] * 2
    report = accelerator.report().as_dict()
    assert (report["passes"], report["steps"], report["unet_calls"]) == (2, 7, 8)


def test_the_host_is_trusted_more_than_a_schedule():
    pipe = models.pipeline()
    seen = watch(pipe.unet)
    with accelerated(pipe, *STAGES) as accelerator:
        accelerator.step(4, 5)
        models.picture(pipe, 5)
    assert seen == [MERGED] * 5
    assert accelerator.report().as_dict()["steps"] == 1


def test_host_steps_out_of_range():
    """Hosts' totals are estimates: more steps than announced are the end of the pass."""
    unet = models.ldm_unet()
    seen = watch(unet)
    with accelerated(unet, *STAGES) as accelerator:
        for index, total in ((-1, 5), (0, 0)):
            with pytest.raises(ValueError, match="must be"):
                accelerator.step(index, total)
        for index in (0, 4, 5, 9):
            accelerator.step(index, 5)
            models.call(unet)
    assert seen == [AGENTS] + [MERGED] * 3


@pytest.mark.parametrize("kind", models.BOTH)
def test_rows_told_by_the_host(kind):
    """Two calls of a step: the first holds the cond row, the second the uncond row; a plan kept for steps follows its row."""
    unet = models.UNETS[kind]()
    with accelerated(unet, TokenMerging(plan_every=2)) as accelerator:
        pictures = []
        for order in (["cond", "uncond"], ["uncond", "cond"]):
            accelerator.new_pass()
            of_role = {}
            for index in range(2):
                accelerator.step(index, 2, [Row(role) for role in (order if index else ["cond", "uncond"])])
                for role in order if index else ["cond", "uncond"]:
                    given = models.inputs(rows=1, timestep=999 - index)
                    given.latents = given.latents * (1 if role == "cond" else -1)
                    of_role[role] = models.call(unet, given)
            pictures.append(of_role)
    assert torch.equal(pictures[0]["cond"], pictures[1]["cond"])
    assert torch.equal(pictures[0]["uncond"], pictures[1]["uncond"])


FORMS = {
    "a number": float,
    "one tensor": torch.tensor,
    "one per row": lambda timestep: torch.full((2,), timestep),
}


@pytest.mark.parametrize(("kind", "form"), [("ldm", "one per row"), *(("diffusers", form) for form in FORMS)])
def test_a_bare_unet_goes_by_the_timestep(kind, form):
    unet = models.UNETS[kind]()
    seen = watch(unet)
    with accelerated(unet, *STAGES) as accelerator:
        for timestep in (999.0, 800.0, 800.0, 650.0, 599.0, 599.0, 300.0, 1.0, 900.0, 400.0):
            given = models.inputs()
            given.timestep = FORMS[form](timestep)
            models.call(unet, given)
    assert seen == [AGENTS] * 4 + [MERGED] * 4 + [AGENTS, MERGED]
    report = accelerator.report().as_dict()
    assert (report["passes"], report["steps"], report["unet_calls"]) == (2, 8, 10)
