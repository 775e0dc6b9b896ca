"""T-GATE against its official versions 0.1.2 and 1.0.0: layers, schedules, whole runs; and their failures, which must not happen here."""

import json

import diffusers
import models
import pytest
import torch
from golden import DATA, read_json
from safetensors.torch import load_file
from torch import nn

from lib_accel import Row, TGate, accelerated
from lib_accel.methods.tgate_runner import AFTER, AT_GATE, BEFORE, cross_attention_action, self_attention_action

RUNS = read_json("tgate/unet_v0_1_2")
CASES = {case["name"]: case for case in RUNS["cases"]}
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {}),
    "dpm2m": ("DPMSolverMultistepScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
}


@pytest.fixture(scope="module")
def stored():
    return load_file(DATA / "tgate/unet_v0_1_2.safetensors") | load_file(DATA / "tgate/tiny_unet_weights_fp16.safetensors")


def published(**settings):
    return TGate(cache="mean", after_gate="uncond", **settings)


def golden_pipeline(stored, model, scheduler):
    unet = diffusers.UNet2DConditionModel(**RUNS[f"unet_config_{model}"])
    weights = {name.removeprefix(f"{model}."): tensor.float() for name, tensor in stored.items() if name.startswith(f"{model}.")}
    unet.load_state_dict(weights)
    kind = "StableDiffusionXLPipeline" if model == "sdxl" else "StableDiffusionPipeline"
    pipe = models.pipeline(unet.eval().requires_grad_(False), kind)
    name, settings = SCHEDULERS[scheduler]
    pipe.scheduler = getattr(diffusers, name)(**RUNS["scheduler_common"], steps_offset=1, **settings)
    return pipe


def run(stored, case, *methods, times=1, follow=None, **changes):
    """(latents after every step, what the U-Net really returned in every call, report) of the last of ``times`` runs.

    follow: latents to go on from after every step, in place of the scheduler's.
    """
    pipe = golden_pipeline(stored, case["model"], case["scheduler"])
    given = {name.split(".", 2)[2]: tensor for name, tensor in stored.items() if name.startswith(f"in.{case['input']}.")}
    given |= {"num_inference_steps": case["num_inference_steps"], "guidance_scale": case["guidance_scale"], "output_type": "latent"}
    returned, latents = [], []
    pipe.unet.register_forward_hook(lambda module, args, out: returned.append((out[0] if isinstance(out, tuple) else out.sample).clone()))

    def note(pipe, step, timestep, tensors):
        latents.append(tensors["latents"].clone())
        return {} if follow is None else {"latents": follow[step]}

    with accelerated(pipe, *methods) as accelerator:
        for _ in range(times):
            returned.clear()
            latents.clear()
            pipe(height=64, width=64, callback_on_step_end=note, **(given | changes))
    return latents, returned, accelerator.report().as_dict()


def wanted(stored, name, what):
    """The golden tensors of every call."""
    whole = stored.get(f"{name}.{what}")
    if whole is not None:
        return list(whole)
    return [stored[f"{name}.{what}.{index}"] for index in range(len(CASES[name]["unet_calls"]))]


RUN = ["plain_ddim_B1", "v0_ddim_B1_g3", "v0_ddim_B1_g1", "v0_ddim_B1_g6_never", "v0_dpm2m_B1_g3", "v0_euler_B1_g3"]
RUN += ["plain_sdxl_B1", "v0_sdxl_B2_g3", "v0_sdxl_lcm_B1_g1"]


@pytest.mark.parametrize("name", RUN)
def test_whole_runs(stored, name):
    case = CASES[name]
    methods = [published(gate_step=case["params"]["gate_step"])] if case["params"] else []
    # LCM adds noise of its own.
    follow = wanted(stored, name, "latents") if case["scheduler"] == "lcm" else None
    latents, returned, _ = run(stored, case, *methods, follow=follow)
    assert [len(out) for out in returned] == [call["batch"] for call in case["unet_calls"]]
    for out, other in zip(returned, wanted(stored, name, "unet_out")):
        torch.testing.assert_close(out, other, **CLOSE)
    for ours, other in zip(latents, wanted(stored, name, "latents") if follow is None else []):
        torch.testing.assert_close(ours, other, **CLOSE)


@pytest.mark.parametrize(("gate", "guided"), [(3, 5), (4, 7)])
def test_heun_is_gated_by_steps(stored, gate, guided):
    """Officially: an error for both gates. The second evaluation of a step lies at the next timestep."""
    case = CASES[f"v0_heun_B1_g{gate}"]
    _, returned, report = run(stored, case, published(gate_step=gate))
    assert [len(out) for out in returned] == [2] * guided + [1] * (11 - guided)
    assert report["methods"][0]["steps"] == 6 - gate
    for out, other in zip(returned, stored[f"{case['name']}.unet_out"][: guided - 2]):
        torch.testing.assert_close(out, other, **CLOSE)


@pytest.mark.parametrize("images", [1, 2])
def test_guidance_off_keeps_rows_apart(stored, images):
    """Officially: an error for one image; two images are averaged."""
    case = CASES["v0_cfgoff_B2_g3"] | {"input": f"sd_B{images}"}
    latents, returned, report = run(stored, case, published(gate_step=3))
    assert [len(out) for out in returned] == [images] * 6
    assert report["methods"][0]["steps"] == 3
    if images == 2:
        text = stored["in.sd_B2.prompt_embeds"].clone()
        text[1] = -text[1]
        others, _, _ = run(stored, case, published(gate_step=3), prompt_embeds=text)
        assert torch.equal(latents[-1][0], others[-1][0])
        assert not torch.allclose(latents[-1][1], others[-1][1], atol=1e-2)


def test_pndm_knows_nothing_of_the_image_before(stored):
    case = CASES["plain_ddim_B1"] | {"scheduler": "pndm"}
    once, _, _ = run(stored, case, published(gate_step=3))
    twice, returned, _ = run(stored, case, published(gate_step=3), times=2)
    assert torch.equal(once[-1], twice[-1])
    assert [len(out) for out in returned] == [2, 2, 2, 2, 1, 1, 1]


# -- schedules ------------------------------------------------------------------------------------------------------------------

SCHEDULES = [case for case in json.loads((DATA / "tgate/schedule_v1.json").read_text()) if case["gate_step"]]


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda c: f"{c['num_steps']}-{c['gate_step']}-{c['sp_interval']}-{c['fi_interval']}")
def test_schedule(case):
    gate, intervals = case["gate_step"], [case[name] for name in ("sp_interval", "fi_interval", "warm_up")]
    places = [BEFORE if i < gate - 1 else AT_GATE if i == gate - 1 else AFTER for i in range(case["num_steps"])]
    assert [cross_attention_action(place) for place in places] == case["cross"]
    assert [self_attention_action(i, place, *intervals) for i, place in enumerate(places)] == case["self"]
    assert [place != AT_GATE for place in places] == case["keep_shape"]


# -- layers ---------------------------------------------------------------------------------------------------------------------


class BasicTransformerBlock(nn.Module):
    """Both attention layers on the same tokens, side by side: nothing but their outputs."""

    def __init__(self, heads, width):
        super().__init__()
        from ldm.modules.attention import CrossAttention

        self.attn1 = CrossAttention(16, heads=heads, dim_head=width)
        self.attn2 = CrossAttention(16, context_dim=12, heads=heads, dim_head=width)

    def forward(self, x, context):
        return self.attn1(x), self.attn2(x, context=context)


class SpatialTransformer(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(*shape)])

    def forward(self, x, context):
        return self.transformer_blocks[0](x.flatten(2).transpose(1, 2), context)


class LayersUNet(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.ModuleList([SpatialTransformer(*shape)])])
        self.middle_block, self.output_blocks = nn.ModuleList(), nn.ModuleList()

    def forward(self, x, timesteps=None, context=None):
        self.seen = self.input_blocks[0][0](x, context)
        return x


@pytest.mark.parametrize("version", ["v0_1_2", "v1_0_0"])
def test_layers(version):
    about, tensors = read_json(f"tgate/attention_{version}"), load_file(DATA / f"tgate/attention_{version}.safetensors")
    unet = LayersUNet(about["heads"], about["dim_head"]).eval().requires_grad_(False)
    block = unet.input_blocks[0][0].transformer_blocks[0]
    block.load_state_dict({name.removeprefix("w."): tensor for name, tensor in tensors.items() if name.startswith("w.")})
    intervals = {name: about[name] for name in ("sp_interval", "fi_interval", "warm_up") if name in about}
    images, gate = about["B"], about["gate_step"]
    unconds, conds = ([Row(role, i) for i in range(images)] for role in ("uncond", "cond"))
    with accelerated(unet, published(gate_step=gate, **intervals)) as accelerator:
        for index in range(about["steps"]):
            accelerator.step(index, about["steps"], unconds + (conds if index < gate else []))
            x = tensors[f"step{index}.x"].transpose(1, 2).unflatten(2, (4, 5))
            with torch.no_grad():
                unet(x, torch.full((len(x),), 500.0), tensors[f"step{index}.context"])
            for out, name in zip(unet.seen, ("self_out", "cross_out")):
                torch.testing.assert_close(out, tensors[f"step{index}.{name}"], atol=2e-5, rtol=0)
