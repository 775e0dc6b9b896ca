"""Jobs in a host of the Forge family (its double): what acts, what stands down and why, and that nothing is left."""

import sys

import forge_cfg
import forge_face
import gradio_4
import pytest
import torch
from harness import Host, same
from traces import differences, fingerprint

GATE = {"enabled": True, "preset": "Custom", "auto": False, "tgate.on": True, "tgate.gate": 0.4}
SKIP = {"enabled": True, "preset": "Custom", "auto": False, "guidance.on": True, "guidance.when": "after", "guidance.after": 0.4}
FORECAST = {"enabled": True, "preset": "Custom", "auto": False, "forecast.on": True, "forecast.every": 2}
DEEP = {"enabled": True, "preset": "Custom", "auto": False, "deepcache.on": True}
AND = "a red cat :0.5 AND a blue dog :0.5"
LONG, VERY_LONG = "a red cat sat", "a red cat sat on a green mat and saw how it rained all day on the old grey town by the sea"


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    started = Host(tmp_path_factory.mktemp("forge"), forge=True)
    yield started
    started.stop()


@pytest.fixture
def run(host, monkeypatch):
    """Runs a job; returns its result, its account, and what its U-Net calls held: [(rows, marks)]."""
    from modules import sd_samplers_cfg_denoiser

    def run_one(accel=None, room=None, patch=None, **fields):
        denoiser = sd_samplers_cfg_denoiser.CFGDenoiser
        if room is not None:
            monkeypatch.setattr(denoiser, "room", room, raising=False)
        calls = []
        handles = []

        def seen(module, args, kwargs):
            calls.append((len(args[0]), kwargs["transformer_options"]["cond_or_uncond"]))

        made = type(host.p(fields.get("tab", "txt2img"))).__mro__[1]
        plain = made.before_sampling

        def before(p, x, noise):
            original = p.sd_model.forge_objects_original.unet
            if patch is not None:
                p.sd_model.forge_objects_original.unet = original.clone()
                patch(p.sd_model.forge_objects_original.unet)
            plain(p, x, noise)
            p.sd_model.forge_objects_original.unet = original
            while handles:
                handles.pop().remove()
            handles.append(original.model.diffusion_model.register_forward_pre_hook(seen, with_kwargs=True))

        monkeypatch.setattr(made, "before_sampling", before)
        try:
            done = host.job(accel=accel, **fields)
        finally:
            for handle in handles:
                handle.remove()
            monkeypatch.undo()
        from lib_accel.webui.jobs.session import SESSION

        return done, SESSION.last if accel else None, calls

    return run_one


def methods(account):
    return {method["method"]: method for one in account["passes"] for method in one["report"]["methods"]}


def codes(told):
    """Of reasons as data, in their order, and of those inside of them; a home is told with its code."""
    for reason in told:
        yield reason["code"] + (f" {reason['home']}" if "home" in reason else "")
        yield from codes(value for value in reason.values() if isinstance(value, dict))


def told_of(account, method=None):
    """The codes of a method's reasons, or of what is told of the first pass."""
    return list(codes(account["reasons"].get("first pass", []) if method is None else methods(account)[method]["reasons"]))


def unet_of(host):
    return host.shared.sd_model.forge_objects.unet.model.diffusion_model


def test_there_is_nothing_of_a1111_alone(host):
    with pytest.raises(ImportError):
        import modules.sd_hijack  # noqa: F401
    assert not any(name.startswith(("modules.hypernetworks.", "ldm.modules.attention")) for name in sys.modules if "lib_accel" in name)
    assert host.script() is not None and not host.errors.reports


SITUATIONS = {
    "plain": {},
    "batch": {"batch_size": 2},
    "AND": {"prompt": AND},
    "AND batch": {"prompt": AND, "batch_size": 2},
    "no room": {"room": 1},
    "joint call": {"prompt": LONG},
    "two calls": {"prompt": VERY_LONG},
    "Heun": {"sampler_name": "Heun"},
    "DDIM": {"sampler_name": "DDIM"},
    "img2img": {"tab": "img2img"},
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_t_gate(host, run, situation):
    """Cross-attention is served on every layer, the negative prompt leaves the calls behind the gate; and then nothing is left."""
    given = SITUATIONS[situation]
    off, _, plain_calls = run(**given)
    before, objects = fingerprint(unet_of(host)), host.shared.sd_model.forge_objects
    on, account, calls = run(GATE, **given)
    acted = methods(account)["TGate"]
    assert acted["layers_by_effect"] == {"cross-attention served": 7}
    images = given.get("batch_size", 1)
    assert sum(rows for rows, _ in plain_calls) - sum(rows for rows, _ in calls) == images * acted["unguided_steps"] > 0
    assert all(1 not in marks for _, marks in calls[-2:])
    assert not same(off, on)
    assert not differences(before, fingerprint(unet_of(host)))
    assert "conditioning_modifiers" not in host.shared.sd_model.forge_objects.unet.model_options and objects is not None
    again, _, _ = run(**given)
    assert same(off, again)


@pytest.mark.parametrize("given", [{}, {"batch_size": 2}, {"sampler_name": "DDIM"}, {"room": 1}, {"prompt": LONG}])
def test_dropped_guidance_is_the_hosts_own_skipping(host, run, given):
    host.shared.opts.s_min_uncond_all = True
    theirs, _, their_calls = run(s_min_uncond=6.0, **given)
    host.shared.opts.s_min_uncond_all = False
    ours, account, calls = run({**SKIP, "guidance.when": "outside", "guidance.sigma_low": 5.999, "guidance.sigma_high": 1000}, **given)
    assert same(theirs, ours) and calls == their_calls
    assert methods(account)["GuidanceSkip"]["unguided_steps"] > 0


def test_a_kept_direction_is_one_and_the_same_in_one_call_and_in_two(host, run):
    keeps = {**SKIP, "guidance.reuse": True}
    together, account, calls = run(keeps)
    apart, _, _ = run(keeps, room=1)
    without, _, _ = run(SKIP)
    assert methods(account)["GuidanceSkip"]["kept_direction_steps"] > 0 and calls[-1] == (1, [0])
    assert same(together, apart) and not same(together, without)


def test_the_negative_prompt_runs_in_the_prompts_place(run):
    on, account, calls = run({**GATE, "tgate.after_gate": "uncond"}, prompt=AND, batch_size=2)
    assert methods(account)["TGate"]["unguided_steps"] > 0 and calls[-1] == (2, [0])
    other, _, _ = run(GATE, prompt=AND, batch_size=2)
    assert not same(on, other)


@pytest.mark.parametrize("scale, calls_of_hires", [(1.0, [(1, [0])] * 5), (5.0, [(2, [1, 0])] * 2 + [(1, [0])] * 3)])
def test_the_hires_pass_has_a_scale_of_its_own(run, scale, calls_of_hires):
    _, account, calls = run({**GATE, "hires.profile": "same"}, enable_hr=True, hr_cfg=scale)
    assert calls[-5:] == calls_of_hires
    assert [one["place"] for one in account["passes"]] == ["first pass", "hires pass"]


def test_where_the_host_skips_it_is_left_to_it(host, run):
    host.shared.opts.s_min_uncond_all = True
    _, account, calls = run(GATE, s_min_uncond=100.0)
    host.shared.opts.s_min_uncond_all = False
    assert all(marks == [0] for _, marks in calls)
    assert told_of(account) == ["left_to_host"]


def test_steps_are_forecast_where_the_host_skips_every_second_negative_prompt(run):
    """NGMS: the scale that the host combines by is 1 in every second step, and 5 in between."""
    tolerant = {**FORECAST, "forecast.every": 0, "forecast.tolerance": 1000}
    given = {"s_min_uncond": 100.0, "steps": 14}
    off, _, plain_calls = run(**given)
    on, account, _ = run(tolerant, **given)
    assert [rows for rows, _ in plain_calls] == [2, 1] * 7
    (served,) = methods(account)["Forecast"]["served"]
    assert {step % 2 for step in served["steps"]} == {0, 1} and not same(off, on)
    assert "too_short" not in told_of(account, "Forecast")
    again, _, _ = run(**given)
    assert same(off, again)


# -- neighbours -----------------------------------------------------------------------------------------------------------------------


def named(name, code):
    """A function as an extension's module of that name would have it."""
    made = {"__name__": name}
    exec(code, made)
    return made["function"]


CFG = "def function(args):\n    return args['uncond'] + 0.9 * args['cond_scale'] * (args['cond'] - args['uncond'])"
POST = "def function(args):\n    return args['denoised'] * 0.9"
REPLACE = "def function(q, k, v, extra):\n    return v"
NEIGHBOURS = {
    "RescaleCFG": (lambda u: u.set_model_sampler_cfg_function(named("rescale_cfg", CFG)), "works_on_both rescale_cfg"),
    "SAG": (lambda u: u.set_model_sampler_post_cfg_function(named("forge_sag.py", POST), True), "works_on_both forge_sag"),
    "StyleAlign": (
        lambda u: u.set_model_attn1_replace(named("forge_stylealign", REPLACE), "middle", 0),
        "patch_counts_rows forge_stylealign",
    ),
    "a sampler's": (lambda u: u.set_model_sampler_post_cfg_function(named("k_diffusion.sampling", POST), True), "cfg_plus_plus"),
    "no shortcut": (lambda u: u.model_options.update(disable_cfg1_optimization=True), "needs_both"),
}


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_guidance_is_kept_beside_those_who_count_on_it(run, neighbour):
    patch, told = NEIGHBOURS[neighbour]
    off, _, _ = run(patch=patch)
    on, account, calls = run(SKIP, patch=patch)
    assert same(off, on) and all(rows == 2 for rows, _ in calls)
    assert told_of(account, "GuidanceSkip")[:2] == ["guidance_kept", told]


@pytest.mark.parametrize("settings, name", [(FORECAST, "Forecast"), (DEEP, "DeepCache")])
@pytest.mark.parametrize("guides", [False, True])
def test_methods_that_leave_calls_out_beside_sag(run, settings, name, guides):
    """guides: its patch is on the call that it makes itself, as Perturbed Attention's is; it works on the prediction of this one."""

    def patch(u):
        if guides:
            u.set_model_sampler_post_cfg_function(named("forge_sag.py", POST))
        else:
            u.set_model_attn1_replace(named("forge_sag.py", REPLACE), "middle", 0)

    off, _, _ = run(patch=patch, steps=12)
    on, account, _ = run(settings, patch=patch, steps=12)
    assert same(off, on) and any(code.endswith("forge_sag") for code in told_of(account, name))


@pytest.mark.parametrize("settings, name", [(FORECAST, "Forecast"), (DEEP, "DeepCache")])
def test_methods_that_leave_calls_out(run, settings, name):
    off, _, _ = run(steps=12)
    on, account, _ = run(settings, steps=12)
    report = account["passes"][0]["report"]
    assert report["calls_served"] + report["stages_served"] > 0 and not same(off, on)
    again, _, _ = run(steps=12)
    assert same(off, again)


SPECTRUM = """
def function(apply_model, given):
    calls.append(float(given["timestep"][0]))
    if len(calls) % 2 == 0:
        return kept[-1]
    kept.append(apply_model(given["input"], given["timestep"], **given["c"]))
    return kept[-1]
"""


def spectrum(u):
    function = named("lib_spectrum.forecaster", SPECTRUM)
    function.__globals__.update(calls=[], kept=[])
    u.set_model_unet_function_wrapper(function)


@pytest.mark.parametrize("settings, name", [(FORECAST, "Forecast"), (DEEP, "DeepCache"), (SKIP, "GuidanceSkip")])
def test_beside_spectrum_it_acts_and_we_say_so(run, settings, name):
    off, _, plain_calls = run(patch=spectrum, steps=12)
    on, account, calls = run(settings, patch=spectrum, steps=12)
    assert same(off, on) and calls == plain_calls and len(calls) == 6
    # Once: nothing of theirs is left to act in the calls that it runs.
    assert "spectrum" in told_of(account, name) and told_of(account) == ["spectrum_forecast"]
    assert "6 steps, 6 U-Net calls" in account["line"] and "Spectrum forecast 6 of 12 steps" in account["line"]


def test_methods_on_tokens_act_in_the_calls_that_spectrum_runs(run):
    merging = {"enabled": True, "preset": "Custom", "auto": False, "merging.on": True, "merging.ratio": 0.5}
    _, account, calls = run(merging, patch=spectrum, steps=12)
    assert len(calls) == 6 and methods(account)["TokenMerging"]["steps"] == 6
    assert set(told_of(account)) == {"beside_spectrum", "spectrum_forecast"}


TILES = """
def function(apply_model, given):
    x, t, c = given["input"], given["timestep"], dict(given["c"])
    left = apply_model(x[..., :8], t, **c)
    return torch.cat([left, apply_model(x[..., 8:], t, **c)], -1)
"""


def test_beside_tiles_no_row_is_left_out(run):
    function = named("lib_multidiffusion.tiled_diffusion", TILES)
    function.__globals__["torch"] = torch
    patch = lambda u: u.set_model_unet_function_wrapper(function)  # noqa: E731
    off, _, _ = run(patch=patch)
    on, account, calls = run(SKIP, patch=patch)
    assert same(off, on) and all(rows == 2 for rows, _ in calls)
    assert told_of(account, "GuidanceSkip") == ["wrapped multidiffusion"]


BLOCKCACHE = """
def forward(self, x, timesteps=None, context=None, **more):
    calls.append(len(x))
    if len(calls) % 2 == 0:
        return x + kept[-1]
    out = plain(self, x, timesteps, context, **more)
    kept.append(out - x)
    return out
"""


@pytest.mark.parametrize("settings", [FORECAST, DEEP, SKIP, GATE], ids=["forecast", "deep", "skip", "gate"])
def test_beside_first_block_cache_every_row_of_every_call_is_its_own(host, run, monkeypatch, settings):
    """It replaces the forward of the model's class, and adds what it kept of both rows to whatever comes."""
    run(steps=1)
    kind = type(unet_of(host))

    def beside(accel=None):
        made = {"__name__": "blockcache.py", "plain": kind.forward, "calls": [], "kept": []}
        exec(BLOCKCACHE, made)
        with monkeypatch.context() as patched:
            patched.setattr(kind, "forward", made["forward"])
            done = host.job(accel=accel, steps=12)
        return done, made["calls"]

    off, plain_calls = beside()
    on, calls = beside(settings)
    from lib_accel.webui.jobs.session import SESSION

    assert same(off, on) and calls == plain_calls == [2] * 12
    assert told_of(SESSION.last) == ["every_row"] and "off: blockcache needs every row" in SESSION.last["line"]


def test_cfg_plus_plus(host, run, monkeypatch):
    from modules import sd_samplers_cfg_denoiser

    monkeypatch.setattr(sd_samplers_cfg_denoiser.CFGDenoiser, "need_last_noise_uncond", True)
    off, _, _ = run()
    monkeypatch.setattr(sd_samplers_cfg_denoiser.CFGDenoiser, "need_last_noise_uncond", True)
    on, account, _ = run(SKIP)
    assert same(off, on) and told_of(account, "GuidanceSkip")[:2] == ["guidance_kept", "cfg_plus_plus"]


def test_the_hosts_token_merging_is_told(run):
    merging = {"enabled": True, "preset": "Custom", "auto": False, "merging.on": True}
    _, account, _ = run(merging, token_merging_ratio=0.5)
    assert told_of(account) == ["tokens_off", "token_merging"] and not account["passes"]


# -- models ----------------------------------------------------------------------------------------------------------------------------


def test_the_refiners_u_net_is_followed(host, run):
    first, other = host.shared.sd_model, host.model(1, "refiner")
    _, account, _ = run(GATE, steps=8, refiner_model=other, refiner_switch_at=0.5)
    host.sd_models.switch_to(first)
    assert told_of(account) == ["another_model"]
    assert len(account["passes"]) == 2
    for model in (first, other):
        assert "conditioning_modifiers" not in model.forge_objects.unet.model_options


@pytest.mark.parametrize("left", ["_torch_compile_config", "_orig_apply_model"])
def test_a_compiled_u_net_is_told(host, run, left):
    """Neo's extension forgets the first when its settings are changed from one kind to another, and goes on compiling."""
    wrapper = host.shared.sd_model.forge_objects.unet.model
    setattr(wrapper, left, "something")
    try:
        _, account, _ = run(GATE)
    finally:
        delattr(wrapper, left)
    assert told_of(account) == ["compiled"] and not account["passes"]


def test_sdxl(host, run):
    before = host.shared.sd_model
    host.sd_models.switch_to(host.model(2, "xl", kind="sdxl"))
    try:
        _, account, calls = run(GATE)
    finally:
        host.sd_models.switch_to(before)
    assert methods(account)["TGate"]["layers"] == 11 and calls[-1] == (1, [0])


def test_our_own_error_ends_nothing(host, run, monkeypatch):
    from lib_accel.webui.host import forge_call

    off, _, _ = run()
    monkeypatch.setenv("ACCEL_STRICT", "")
    monkeypatch.setattr(forge_call, "read", lambda *given: 1 / 0)
    on, account, _ = run(GATE)
    assert same(off, on) and "everything was switched off after an error" in account["line"]


def test_the_page_is_built_of_what_gradio_4_knows_too(host):
    with gradio_4.only_its_names() as strangers:
        host.reload()
    ours = [name for name in strangers if not name.endswith(": tooltip")]
    assert ours == [] and host.script() is not None and not host.errors.reports


# -- scripts ---------------------------------------------------------------------------------------------------------------------------


def test_prompt_to_prompt_loads_what_it_needs(tmp_path, host):
    """It comes before the host loads anything."""
    before = host.sd_models.model_data.sd_model
    host.sd_models.model_data.sd_model = forge_face.FakeInitialModel()
    try:
        p = host.p(prompt="a red cat on grass")
        script = host.script("txt2img", "Prompt-to-Prompt")
        args = list(p.script_args)
        args[0] = p.scripts.selectable_scripts.index(script) + 1
        values = [control.value for control in script.controls]
        values[0] = "cat -> dog"
        args[script.args_from : script.args_to] = values
        p.script_args = tuple(args)
        host.shared.state.begin("job")
        done = p.scripts.run(p, *p.script_args)
    finally:
        host.sd_models.model_data.sd_model = before
    account = done.extra_generation_params
    assert done.images and any("PromptToPrompt" in str(value) for value in account.values())


def test_patchers_are_left_as_they_were_where_somebody_cloned_ours(host):
    from lib_accel.webui.host.forge_patch import MODIFIERS, Patch

    def mine(*call):
        return call

    def theirs(*call):
        return call

    engine = host.model(3)
    before = engine.forge_objects.unet
    patch = Patch(mine)
    patch.see_to(engine)
    assert engine.forge_objects.unet is not before and MODIFIERS not in before.model_options
    cloned = engine.forge_objects.unet.clone()
    cloned.add_conditioning_modifier(theirs)
    engine.forge_objects.unet = cloned
    patch.see_to(engine)
    assert engine.forge_objects.unet is cloned and cloned.model_options[MODIFIERS] == [theirs, mine]
    patch.take_off()
    assert engine.forge_objects.unet is cloned and cloned.model_options[MODIFIERS] == [theirs]
    engine.forge_objects.unet = before
    patch.see_to(engine)
    engine.forge_objects.unet = engine.forge_objects.unet.clone()
    patch.take_off()
    assert MODIFIERS not in engine.forge_objects.unet.model_options
    assert isinstance(cloned, forge_cfg.Patcher)
