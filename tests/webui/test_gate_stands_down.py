"""Where T-GATE and guidance skipping wait, keep the negative prompt's rows or do nothing, and say so; and that nothing is left behind."""

import types

import pytest
import torch
from acting import did
from harness import same
from stepping import SKIP, TGATE, methods_of, rows_by_step
from traces import differences, fingerprint


@pytest.mark.parametrize(
    ("prompt", "guided"),
    [("a [cat:dog:0.5]", 6), ("a [cat:dog:0.1]", 4), ("a [cat:dog:8]", 10), ("a [cat|dog]", 10), ("a cat AND a [cat:dog:0.5]", 6)],
)
def test_the_gate_waits_for_the_last_change_of_the_prompt(host, prompt, guided):
    """What is kept was computed with the prompt that stays. Prompts that never stay keep the gate shut."""
    steps, done = rows_by_step(host, TGATE, prompt=prompt, steps=10)
    whole = steps[0]
    assert [step == whole for step in steps] == [True] * (guided + (guided not in (4, 10))) + [False] * (
        10 - guided - (guided not in (4, 10))
    )
    if guided == 10:
        assert "the gate waits for the last change of the prompts, which never comes" in done.comments
    elif guided == 6:
        assert "the gate waits for the last change of the prompts, step 8" in done.comments
    else:
        assert "waits" not in done.comments


def test_a_changing_negative_prompt_counts_too(host):
    assert rows_by_step(host, TGATE, negative_prompt="[cat:dog:6]", steps=10)[0] == [[2]] * 8 + [[1]] * 2


@pytest.mark.parametrize(("prompt", "wanted"), [("a", "ggggkkgkkg"), ("a [cat:dog:0.5]", "gggggggkkg"), ("a [cat|dog]", "gggggggggg")])
def test_a_kept_direction_waits_for_the_last_change_of_the_prompt(host, prompt, wanted):
    """It would pull towards what the prompt no longer says."""
    steps, done = rows_by_step(host, SKIP | {"guidance.reuse": True, "guidance.every": 3}, prompt=prompt, steps=10)
    assert "".join("g" if rows == [2] else "k" for rows in steps) == wanted
    assert ("guidance skipping waits for the last change of the prompts" in done.comments) is (prompt != "a")


def test_pictures_edited_by_instruction_stay_guided(host):
    host.sd_models.switch_to(host.model(conditioning_key="edit"))
    steps, done = rows_by_step(host, TGATE, tab="img2img", image_cfg_scale=1.5, steps=6)
    assert steps == [[3]] * 5
    assert "guidance was kept: the model guides by an image too" in done.comments


def test_steps_that_the_host_skips_are_left_to_it(host):
    steps, done = rows_by_step(host, TGATE, s_min_uncond=99.0, steps=6)
    assert steps == [[2], [1], [2], [1], [1], [1]]
    assert "guidance was left to the WebUI where it skips the negative prompt itself" in done.comments
    host.shared.opts.data["skip_early_cond"] = 0.5
    steps, done = rows_by_step(host, TGATE, steps=6)
    assert steps == [[1]] * 6


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("how", [{"s_min_uncond": 99.0}, {"skip_early_cond": 0.5}])
def test_the_hosts_own_skipping_does_not_fail_with_inpainting_models(host, how, apart):
    """The double fails there as the host does when nothing of ours is on."""
    host.sd_models.switch_to(host.model(conditioning_key="hybrid"))
    host.shared.opts.data["batch_cond_uncond"] = not apart
    host.shared.opts.data["skip_early_cond"] = how.get("skip_early_cond", 0.0)
    for accel in (TGATE, {"enabled": True, "preset": "Custom"}):
        steps, _ = rows_by_step(host, accel, prompt="a AND b", batch_size=2, s_min_uncond=how.get("s_min_uncond", 0.0))
        assert any(sum(rows) == 4 for rows in steps)


def test_another_unet_in_place_of_the_models(host):
    class Engine:
        def forward(self, x, timesteps, context, *args, **kwargs):
            return x * 0.1

    host.sd_unet.current_unet = Engine()
    steps, done = rows_by_step(host, TGATE)
    assert steps == [[2]] * 5
    assert "the option sd_unet runs the U-Net elsewhere" in done.comments


@pytest.mark.parametrize("switch", [True, "True", False])
def test_regional_prompter_by_its_switch(host, switch):
    class Script:
        name, args_from, args_to = "regional prompter", 0, 1

    accel, fields = TGATE, {"prompt": "a"}
    p = host.p("txt2img", accel, **fields)
    p.scripts = types.SimpleNamespace(alwayson_scripts=[Script()])
    p.script_args = (switch,)
    from lib_accel.webui.host import neighbours

    assert neighbours.regional_prompter(p, host.shared.sd_model.model.diffusion_model) is (str(switch) == "True")


def test_regional_prompter_by_its_layers(host):
    layer = host.shared.sd_model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2
    code = "def forward(x, context=None, mask=None):\n    return own(x, context, mask)\n"
    names = {"own": layer.forward}
    exec(compile(code, "/extensions/sd-webui-regional-prompter/scripts/attention.py", "exec"), names)
    layer.forward = names["forward"]
    steps, done = rows_by_step(host, TGATE | {"merging.on": True})
    assert steps == [[2]] * 5
    assert "T-GATE off: Regional Prompter needs every row of every step" in done.comments
    assert [method["method"] for method in methods_of(host)] == ["TokenMerging"]
    # Somebody else's forward is simply the attention that was there.
    names = {"own": names["own"]}
    exec(compile(code, "/extensions/other/scripts/attention.py", "exec"), names)
    layer.forward = names["forward"]
    assert rows_by_step(host, TGATE)[0] == [[2]] * 2 + [[1]] * 3
    del layer.forward


def cut(params):
    params.x, params.sigma, params.image_cond = params.x[:1], params.sigma[:1], params.image_cond[:1]
    params.text_uncond = params.text_cond[:0]


def test_a_batch_that_somebody_changed_before(host):
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", cut))
    done = host.job(accel=TGATE)
    assert "TGate: nothing [off: another extension changes the batch]" in done.comments


def test_a_batch_that_somebody_changes_afterwards(host):
    host.callbacks.on_cfg_denoiser(lambda params: cut(params) if params.denoiser.step == 0 else None)
    steps, done = rows_by_step(host, TGATE)
    assert steps == [[1]] + [[2]] * 4
    assert "off: another extension changes the batch" in done.comments


@pytest.mark.parametrize("method", [TGATE, SKIP, {"enabled": True, "preset": "Custom", "auto": False}], ids=["gate", "skip", "scale 1"])
def test_samplers_that_go_by_the_negative_prompts_prediction(host, method):
    """DDIM CFG++: not even at scale 1 is its prediction of no use."""
    from modules.sd_samplers_cfg_denoiser import CFGDenoiser

    CFGDenoiser.need_last_noise_uncond = True
    try:
        steps, done = rows_by_step(host, method, cfg_scale=5 if "tgate.on" in method or "guidance.on" in method else 1)
    finally:
        del CFGDenoiser.need_last_noise_uncond
    assert steps == [[2]] * 5
    assert "guidance was kept: the sampler needs the negative prompt's prediction (CFG++)" in done.comments
    assert (did(done, "cross-attention served", 7)) is ("tgate.on" in method)


def test_models_that_are_moved_in_parts_keep_their_caches_in_main_memory(host):
    host.shared.sd_model.lowvram = True
    done = host.job(accel=TGATE)
    assert methods_of(host)[0]["changed"] == {"offload": True}
    host.shared.sd_model.lowvram = False
    assert same(host.job(accel=TGATE), done)


def test_another_extensions_combination_of_predictions(host):
    """One that sits on the denoiser and counts on the negative prompt's rows gets some."""
    seen = []

    def put(params):
        denoiser = params.denoiser
        if "combine_denoised" in vars(denoiser):
            return

        def combine(x_out, conds_list, uncond, cond_scale):
            seen.append((len(x_out), len(x_out[: -uncond.shape[0]]), cond_scale))
            return type(denoiser).combine_denoised(denoiser, x_out, conds_list, uncond, cond_scale)

        denoiser.combine_denoised = combine

    plain = host.job(accel=TGATE)
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("foreign", put))
    assert same(host.job(accel=TGATE), plain)
    assert seen == [(2, 1, 5.0)] * 2 + [(2, 1, 1.0)] * 3


def test_refiner_after_the_gate(host):
    other = host.model(seed=5, name="refiner")
    steps, done = rows_by_step(host, TGATE | {"tgate.gate": 0.2}, steps=10, refiner_model=other, refiner_switch_at=0.5)
    assert "another model from step 6 on" in done.comments
    # The first step of the new model is guided again, and keeps its own.
    assert steps[:5] == [[2]] * 2 + [[1]] * 3


# -- nothing is left ---------------------------------------------------------------------------------------------------------------


def leave(host, how, params):
    if params.denoiser.step != 3:
        return
    if how == "error":
        host.shared.sd_model.model.diffusion_model.middle_block.register_forward_pre_hook(fail)
    elif how != "whole":
        getattr(host.shared.state, how)()


def fail(module, args):
    raise torch.cuda.OutOfMemoryError("no memory")


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
@pytest.mark.parametrize("how", ["whole", "interrupt", "skip", "error"])
@pytest.mark.parametrize("accel", [TGATE, SKIP | {"guidance.reuse": True}], ids=["gate", "skip"])
def test_off_is_exact_afterwards(start, accel, how, tab):
    without = start(extension=False).job(tab, steps=8)
    host = start()
    unet = host.shared.sd_model.model.diffusion_model
    before = fingerprint(unet)
    denoisers = []

    def foreign(params):
        denoisers.append(params.denoiser)
        leave(host, how, params)

    host.callbacks.on_cfg_denoiser(foreign)
    if how == "error":
        with pytest.raises(torch.cuda.OutOfMemoryError):
            host.job(tab, accel, steps=8)
        unet.middle_block._forward_pre_hooks.clear()
    else:
        host.job(tab, accel, steps=8)
    assert all("combine_denoised" not in vars(denoiser) for denoiser in denoisers)
    host.callbacks.remove_callbacks_for_function(foreign)
    assert same(host.job(tab, steps=8), without)
    assert differences(before, fingerprint(unet)) == set()


def test_caches_are_freed_when_the_pass_is_over(host):
    from lib_accel.webui.jobs.session import SESSION

    runners = []
    host.callbacks.on_cfg_denoiser(lambda params: runners.extend(SESSION._open.accelerator._runners))
    host.job(accel=TGATE)
    assert runners and all(runner._caches.nbytes == 0 for runner in runners)
