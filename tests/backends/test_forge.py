"""U-Nets of the Forge family: told apart, found, their rows known by the host's marks, rows left out with the marks of what is left."""

from dataclasses import dataclass

import cases
import forge_cfg
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import DeepCache, GuidanceSkip, TGate, TokenMerging, accelerated
from lib_accel.backends import backend_for
from lib_accel.backends.forge import ForgeBackend
from lib_accel.core.method import TOKENS, Declaration, Method
from lib_accel.core.noise_view import NoiseView
from lib_accel.core.rows import Layout, Row
from lib_accel.engine.contract import Runner


class Noting(Runner):
    window = (0.0, 1.0)

    def begin_call(self, moment):
        names = {"uncond": "u{0}", "cond": "c{0}{1}", "unknown": "?"}
        self.config.seen.extend(names[row.role].format(row.image, row.part) for row in moment.rows)


@dataclass(frozen=True)
class Notes(Method):
    """Notes whose rows calls hold."""

    declaration = Declaration(acts_on=TOKENS)
    seen: list

    def runner(self):
        return Noting(self)


SIGMAS = (9.0, 4.0, 2.0, 1.0)


@pytest.fixture(scope="module")
def unet():
    return models.forge_unet()


def texts(images=1, parts=1, tokens=models.TEXT, negative=models.TEXT):
    generator = torch.Generator().manual_seed(5)
    made = [torch.randn(images, tokens, models.WIDTH, generator=generator) for _ in range(parts)]
    return made, torch.randn(images, negative, models.WIDTH, generator=generator)


def run(patcher, steps=4, images=1, parts=1, scale=5.0, room=100, tell=None, **lengths):
    """The pictures predicted in each step; the latents stay as they are. tell: called before each step with its index."""
    x = torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    positive, negative = texts(images, parts, **lengths)
    cond = [one for text in positive for one in forge_cfg.conditions(text, 1.0 / parts)]
    made = []
    for index in range(steps):
        if tell is not None:
            tell(index, steps)
        sigma = torch.full((images,), SIGMAS[index])
        with torch.no_grad():
            made.append(forge_cfg.sampling_function(patcher, x * sigma[0], sigma, forge_cfg.conditions(negative), cond, scale, room)[0])
    return torch.stack(made)


def rows_of(images=1, parts=1):
    return [Row("uncond", i) for i in range(images)] + [Row("cond", i, k, 1 / parts) for k in range(parts) for i in range(images)]


@pytest.fixture
def patcher(unet):
    return forge_cfg.Patcher(forge_cfg.KModel(unet))


def seen_in(unet, name="attn2"):
    """What the layers of that name are given as ``transformer_options`` from now on."""
    seen = []
    layer = next(module for path, module in unet.named_modules() if path.endswith(name))
    handle = layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["transformer_options"]), with_kwargs=True)
    return seen, handle


@pytest.mark.parametrize("method", ["stages", "everywhere"])
@pytest.mark.parametrize("kind", ["forge", "forge-sdxl"])
def test_plain_enabled_disabled(kind, method):
    unet = models.UNETS[kind]()
    plain, before = models.one_pass(unet), fingerprint(unet)
    with accelerated(models.ForgeEngine(unet), *cases.METHODS[method]) as accelerator:
        enabled = models.one_pass(unet)
    account = accelerator.report().as_dict()
    assert account["backend"] == "forge" and account["sites"] == {"forge": 7, "forge-sdxl": 11}[kind]
    assert not account["methods"][0]["stood_down"] and account["methods"][0]["layers"]
    assert all(not torch.allclose(e, p, atol=1e-3) for e, p in zip(enabled, plain))
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.one_pass(unet), plain)


def test_told_apart(unet):
    assert [backend_for(models.UNETS[kind]()).name for kind in ("ldm", "ldm-sd2", "sgm", "forge-sdxl")] == ["ldm", "ldm", "sgm", "forge"]
    elsewhere = type("UNetModel", (type(models.ldm_unet()),), {"__module__": "ldm_patched.ldm.modules.diffusionmodules.openaimodel"})
    assert backend_for(models.ldm_unet(unet_class=elsewhere)).name == "forge"


@pytest.mark.parametrize("holder", [models.ForgeEngine, models.latent_diffusion, forge_cfg.KModel, lambda unet: unet])
def test_found_in_whatever_holds_it(unet, holder):
    with accelerated(holder(unet), TokenMerging()) as accelerator:
        models.call(unet)
    assert accelerator.report().as_dict()["unet_calls"] == 1


def test_the_compiled_one_is_found_where_two_are_held(unet):
    engine, other = models.ForgeEngine(unet), models.forge_unet(1)
    engine.model = models.latent_diffusion(other).model
    with accelerated(engine, TokenMerging()) as accelerator:
        models.call(other)
    assert accelerator.report().as_dict()["unet_calls"] == 0


@pytest.mark.parametrize("kind, predicts", [("epsilon", "epsilon"), ("v_prediction", "v"), ("const", "flow"), ("edm", "unknown")])
def test_what_is_predicted_is_asked_of_the_model(unet, kind, predicts):
    engine = models.ForgeEngine(unet)
    engine.forge_objects.unet.model.predictor.prediction_type = kind
    noise = NoiseView(engine).at(None, 2.0)
    assert noise.kind == predicts
    x = torch.ones(1, 4, 2, 2)
    assert (noise.as_epsilon(x, x) is None) == (predicts == "unknown")


def test_comfy_s_sampling_classes_say_what_is_predicted(unet):
    wrapper = forge_cfg.KModel(unet)
    del wrapper.predictor
    wrapper.model_sampling = type("ModelSampling", (type("V_PREDICTION", (), {}),), {})()
    assert NoiseView(wrapper).kind == "v"


# -- whose rows ---------------------------------------------------------------------------------------------------------------------

SITUATIONS = {
    "plain": ({}, ["u0", "c00"]),
    "batch": ({"images": 2}, ["u0", "u1", "c00", "c10"]),
    "AND": ({"parts": 2}, ["u0", "c01", "c00"]),
    "AND batch": ({"images": 2, "parts": 2}, ["u0", "u1", "c01", "c11", "c00", "c10"]),
    "no room": ({"parts": 2, "room": 1}, ["u0", "c01", "c00"]),
    "joint call": ({"negative": 3 * models.TEXT}, ["u0", "c00"]),
    "two calls": ({"negative": 9 * models.TEXT}, ["c00", "u0"]),
    "guided at 1": ({"scale": 1.0}, ["c00"]),
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("told", [True, False])
def test_rows_are_known_by_their_marks(unet, patcher, situation, told):
    given, expected = SITUATIONS[situation]
    shape = {name: given.get(name, 1) for name in ("images", "parts")}
    seen: list = []
    with accelerated(unet, Notes(seen)) as accelerator:
        tell = (lambda index, total: accelerator.step(index, total, rows_of(**shape))) if told else None
        run(patcher, steps=2, tell=tell, **given)
    if not told and situation == "no room":
        # The parts of an AND prompt that come in calls of their own are not told apart.
        expected = ["u0", "c00", "?"]
    assert seen == expected * 2


def test_a_call_after_the_steps_own_is_somebody_elses(unet, patcher):
    """SAG calls the U-Net once more with the negative text, marked as conditional."""
    x, sigma = torch.randn(1, 4, 16, 16), torch.tensor([2.0])

    def more(given):
        forge_cfg.calc_cond_uncond_batch(given["model"], given["uncond"], None, x, sigma, given["model_options"])
        return given["denoised"]

    patcher.set_model_sampler_post_cfg_function(more)
    seen = []
    with accelerated(unet, Notes(seen)) as accelerator:
        run(patcher, steps=1, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    assert seen == ["u0", "c00", "?"]


def test_tiles_are_nobodys_rows(unet, patcher):
    """Tiles lie along the batch and its marks say nothing of that."""

    def tiles(apply, given):
        x, t, c = given["input"], given["timestep"], dict(given["c"])
        c["c_crossattn"] = c["c_crossattn"].repeat_interleave(2, 0)
        return apply(x.repeat_interleave(2, 0), t.repeat_interleave(2, 0), **c)[::2]

    patcher.set_model_unet_function_wrapper(tiles)
    seen = []
    with accelerated(unet, Notes(seen), GuidanceSkip(when="after", after=0.25)) as accelerator:
        run(patcher, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    assert set(seen) == {"?"}
    assert accelerator.report().as_dict()["rows_run"] == 16


# -- rows left out ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("images", [1, 2])
def test_dropped_guidance_is_the_hosts_own_at_scale_1(unet, patcher, images):
    """What the U-Net's own hooks cut and fill is, bit for bit, what the host computes where it leaves the negative prompt out itself."""
    unguided = run(patcher, images=images, scale=1.0)
    guided = run(patcher, images=images)
    seen, handle = seen_in(unet)
    with accelerated(unet, GuidanceSkip(when="after", after=0.5)) as accelerator:
        mixed = run(patcher, images=images, tell=lambda index, total: accelerator.step(index, total, rows_of(images)))
    handle.remove()
    assert torch.equal(mixed, torch.cat([guided[:2], unguided[2:]]))
    assert accelerator.report().as_dict()["methods"][0]["unguided_steps"] == 2
    whole, cut = seen[0], seen[-1]
    assert whole["cond_or_uncond"] == [1, 0] and cut["cond_or_uncond"] == [0]
    assert (cut["cond_indices"], cut["uncond_indices"]) == (list(range(images)), [])
    assert cut["cond_mark"].tolist() == [0] * images and len(cut["sigmas"]) == images


def test_marks_of_pictures_that_run_alone():
    """One picture of a chunk runs, of the other chunk both: then every row is a chunk of its own."""
    backend = backend_for(models.forge_unet())
    options = {"cond_or_uncond": [1, 0], "cond_indices": [2, 3], "uncond_indices": [0, 1], "uuids": ["a", "b"]}
    options |= {"cond_mark": torch.tensor([1.0, 1, 0, 0]), "sigmas": torch.ones(2), "kept": torch.zeros(4)}
    x = torch.arange(4.0)[:, None]

    def cut(keep):
        args, kwargs = backend.cut(None, (x, x), {"context": x, "other": x, "transformer_options": options}, 4, keep)
        made = kwargs["transformer_options"]
        assert args[0].flatten().tolist() == kwargs["context"].flatten().tolist() == list(keep) and kwargs["other"] is x
        assert made["kept"] is options["kept"]
        return made["cond_or_uncond"], made["cond_indices"], made["uncond_indices"], made["uuids"], len(made["sigmas"])

    assert cut([0, 2]) == ([1, 0], [1], [0], ["a", "b"], 1)
    assert cut([1, 2, 3]) == ([1, 0, 0], [1, 2], [0], ["a", "b", "b"], 1)
    assert options["cond_or_uncond"] == [1, 0] and len(options["cond_mark"]) == 4


def test_in_calls_of_their_own_no_row_can_go(unet, patcher):
    plain = run(patcher, room=1)
    with accelerated(unet, GuidanceSkip(when="after", after=0.5)) as accelerator:
        out = run(patcher, room=1, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    assert torch.equal(out, plain)
    account = accelerator.report().as_dict()
    assert (
        account["rows_run"] == 8
        and "guidance was kept: the unconditional rows came in a call of their own" in account["methods"][0]["notes"]
    )


def test_t_gate_serves_every_layer(unet, patcher):
    with accelerated(unet, TGate(gate=0.5)) as accelerator:
        run(patcher, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    account = accelerator.report().as_dict()
    assert account["methods"][0]["layers_by_effect"] == {"cross-attention served": 7}
    assert account["rows_run"] == 6


@pytest.mark.parametrize("home, kept", [("forge_stylealign", True), ("backend.misc.tomesd", False), ("forge_freeu.py", False)])
def test_patches_that_may_count_on_all_rows_keep_guidance(unet, patcher, home, kept):
    patch = eval("lambda n, context, value, extra: (n, context, value)", {"__name__": home})
    patcher.set_model_patch(patch, "attn2_patch")
    with accelerated(unet, GuidanceSkip(when="after", after=0.5)) as accelerator:
        run(patcher, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    account = accelerator.report().as_dict()
    assert account["rows_run"] == (8 if kept else 6)
    assert any("forge_stylealign" in note for note in account["methods"][0]["notes"]) == kept


def test_without_a_host_marks_are_enough(unet, patcher):
    """Nobody tells steps then: the timesteps say how much of the pass went before."""
    with accelerated(unet, GuidanceSkip(when="after", after=0.2)) as accelerator:
        run(patcher)
    account = accelerator.report().as_dict()
    assert account["methods"][0]["unguided_steps"] == 2 and account["rows_run"] == 6


# -- layers and stages --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True])
def test_a_value_that_is_the_context_is_nothing_of_its_own(unet, own):
    backend = backend_for(unet)
    x, text, options = torch.zeros(2, 4, 8), torch.zeros(2, 5, 8), {"block": ("input", 1)}
    value = torch.ones_like(text) if own else text
    for args, kwargs in (((x, text, value, None, options), {}), ((x,), {"context": text, "value": value, "transformer_options": options})):
        call = backend.read_layer("attn2", args, kwargs)
        assert call.has_context and call.context is text
        assert (call.own is not None) == own
    assert backend.read_layer("attn1", (x,), {"context": None, "value": None, "transformer_options": options}).own is None
    assert backend.read_layer("attn1", (x,), {"context": x, "value": x, "transformer_options": options}).own is None
    assert backend.read_layer("attn1", (x,), {"context": text, "value": text}).own is not None


def test_deep_cache(unet, patcher):
    whole = run(patcher)
    with accelerated(unet, DeepCache(every=2, warm_up=0, last=0)) as accelerator:
        out = run(patcher, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    account = accelerator.report().as_dict()
    assert account["methods"][0]["shallow_steps"] == 2 and account["stages_served"] > 0
    assert torch.equal(out[0], whole[0]) and torch.equal(out[2], whole[2]) and not torch.equal(out[1], whole[1])


@pytest.mark.parametrize("name", ["output_block_patch", "input_block_patch"])
def test_deep_cache_beside_patches_between_stages(unet, patcher, name):
    """FreeU changes what stages return in place, HRFix its size."""

    def patch(h, *more):
        h *= 0.5
        return (h, more[0]) if len(more) > 1 else h

    patcher.set_model_patch(patch, name)
    plain = run(patcher)
    with accelerated(unet, DeepCache(every=2, warm_up=0, last=0)) as accelerator:
        out = run(patcher, tell=lambda index, total: accelerator.step(index, total, rows_of()))
    assert torch.equal(out, plain)
    assert any("works on what stages return" in note for note in accelerator.report().as_dict()["methods"][0]["notes"])


def test_deep_cache_beside_a_control_net(unet):
    """Its residuals are taken off their lists, and added in place."""

    def control():
        return {"middle": [torch.ones(2, 32, 4, 4)]}

    def one_run(tell=lambda index, total: None):
        made = []
        for index in range(3):
            tell(index, 3)
            made.append(models.call(unet, control=control(), transformer_options={"cond_or_uncond": [1, 0]}))
        return torch.stack(made)

    plain = one_run()
    with accelerated(unet, DeepCache(every=2, warm_up=0, last=0)) as accelerator:
        assert torch.equal(one_run(lambda index, total: accelerator.step(index, total, Layout.guided(2))), plain)
    with accelerated(unet, GuidanceSkip(when="after", after=0.5)) as accelerator:
        out = one_run(lambda index, total: accelerator.step(index, total, Layout.guided(2)))
    assert torch.equal(out[2][0], out[2][1]) and torch.allclose(out[2][1], plain[2][1], atol=1e-5)


def test_stages_of_comfys_u_net_are_run_past_their_modules():
    """DeepCache says so, and does nothing."""
    unet = models.ldm_unet()
    stages = ForgeBackend().find_stages(unet)
    unet.__class__ = type("UNetModel", (type(unet),), {"__module__": "ldm_patched.ldm.modules.diffusionmodules.openaimodel"})
    assert stages and ForgeBackend().find_stages(unet) == ()
    with accelerated(unet, DeepCache(every=2, warm_up=0, last=0)) as accelerator:
        accelerator.step(0, 3, Layout.guided(2))
        models.call(unet, transformer_options={"cond_or_uncond": [1, 0]})
    assert [reason["code"] for reason in accelerator.report().as_dict()["methods"][0]["reasons"]] == ["stages_unknown"]
