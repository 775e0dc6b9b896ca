"""The host double is faithful: rows and calls per step, step counts, the order of events, and the traps that it must reproduce."""

import pytest


def calls_of(host, **fields):
    """[(rows of each U-Net call)] of the first step, and the number of steps, of a plain job."""
    rows, steps = [], []
    unet = host.shared.sd_model.model.diffusion_model
    hook = unet.register_forward_pre_hook(lambda module, args: rows.append(args[0].shape[0]))
    host.callbacks.on_cfg_denoiser(lambda params: steps.append((len(rows), params.denoiser.step, params.sampling_step)))
    host.job(**fields)
    hook.remove()
    first = rows[: steps[1][0]]
    return first, [step[1:] for step in steps]


MANY = "a prompt of many words"
TABLE = [
    # options, fields, rows of the U-Net calls of one step (B = 2)
    ({}, {}, [4]),
    ({"batch_cond_uncond": False}, {}, [2, 2]),
    ({}, {"prompt": "a AND b"}, [6]),
    ({"batch_cond_uncond": False}, {"prompt": "a AND b"}, [2, 2, 2]),
    ({}, {"prompt": MANY}, [2, 2]),
    ({"batch_cond_uncond": False}, {"prompt": MANY}, [2, 2]),
    ({}, {"prompt": f"{MANY} AND b AND c"}, [4, 2, 2]),
    ({"batch_cond_uncond": False}, {"prompt": f"{MANY} AND b AND c"}, [2, 2, 2, 2]),
    ({"pad_cond_uncond": True}, {"prompt": MANY}, [4]),
    ({"skip_early_cond": 0.5}, {"prompt": "a AND b"}, [4]),
    ({"skip_early_cond": 0.5, "batch_cond_uncond": False}, {"prompt": "a AND b"}, [2, 2]),
]


@pytest.mark.parametrize(("options", "fields", "rows"), TABLE)
def test_rows_of_the_unet_calls(host, options, fields, rows):
    host.shared.opts.data.update(options)
    assert calls_of(host, batch_size=2, **fields)[0] == rows


@pytest.mark.parametrize(("options", "fields", "rows"), TABLE)
def test_rows_of_the_unet_calls_of_sdxl(host, options, fields, rows):
    host.sd_models.switch_to(host.model(kind="sdxl"))
    test_rows_of_the_unet_calls(host, options, fields, rows)


# Calls of a pass of so many steps, and the step that callbacks are told of at the first of them.
CALLS = [
    ({"steps": 5}, 5, [0, 0, 1, 2, 3]),
    ({"steps": 5, "sampler_name": "Euler a"}, 5, [0, 0, 1, 2, 3]),
    ({"steps": 4, "sampler_name": "LCM"}, 4, [0, 0, 1, 2]),
    ({"steps": 3, "sampler_name": "Heun"}, 5, [0, 0, 0, 1, 1]),
    ({"steps": 20, "sampler_name": "DDIM"}, 19, [0, 0, 1, 2]),
    ({"steps": 30, "sampler_name": "DDIM"}, 30, [0, 0, 1, 2]),
    ({"steps": 10, "sampler_name": "PLMS"}, 10, [0, 0, 0, 1, 2]),
    ({"steps": 10, "sampler_name": "UniPC"}, 10, [0, 0, 0, 1, 2]),
    ({"steps": 3, "enable_hr": True, "hr_second_pass_steps": 5, "denoising_strength": 0.5}, 8, [0, 0, 1, 0, 0, 1, 2, 3]),
    ({"tab": "img2img", "steps": 10, "denoising_strength": 0.5}, 6, [0, 0, 1, 2, 3, 4]),
    ({"tab": "img2img", "steps": 10, "denoising_strength": 0.5, "sampler_name": "DDIM"}, 4, [0, 0, 1, 2]),
    ({"tab": "img2img", "steps": 10, "denoising_strength": 0.5, "sampler_name": "UniPC"}, 5, [0, 0, 0, 1, 2]),
]


@pytest.mark.parametrize(("fields", "calls", "told"), CALLS)
def test_steps_and_the_lagging_sampling_step(host, fields, calls, told):
    steps = calls_of(host, **fields)[1]
    assert len(steps) == calls
    first = next((i for i, (step, _) in enumerate(steps) if i and step == 0), calls)
    assert [step for step, _ in steps] == [*range(first), *range(calls - first)]
    assert [lagging for _, lagging in steps][: len(told)] == told


def test_order_of_events(host):
    seen = []
    neighbour = type(host.script("txt2img", "Neighbour"))
    for moment in (
        "before_process",
        "process",
        "process_batch",
        "process_before_every_sampling",
        "before_hr",
        "post_sample",
        "postprocess_image",
        "postprocess_image_after_composite",
        "postprocess",
    ):
        setattr(neighbour, moment, lambda self, p, *args, moment=moment, **given: seen.append(moment))
    host.job(enable_hr=True)
    sampling = ["process_before_every_sampling", "before_hr", "process_before_every_sampling", "post_sample"]
    picture = ["postprocess_image", "postprocess_image_after_composite"]
    assert seen == ["before_process", "process", "process_batch", *sampling, *picture, "postprocess"]


def test_inpainting_with_a_skipped_negative_prompt_fails_as_in_the_host(host):
    host.sd_models.switch_to(host.model(conditioning_key="hybrid"))
    host.shared.opts.skip_early_cond = 0.5
    with pytest.raises(RuntimeError):
        host.job()


def drop_negative(host, empty):
    """Leave out the negative prompt's rows in every step; ``empty`` makes a conditioning without rows of the callback's parameters."""

    def callback(params):
        n = params.text_cond.shape[0]
        params.x, params.sigma, params.image_cond = params.x[:n], params.sigma[:n], params.image_cond[:n]
        params.text_uncond = empty(params)

    host.callbacks.on_cfg_denoiser(callback)


def test_rows_that_are_dropped_twice_destroy_the_batch_as_in_the_host(host):
    drop_negative(host, lambda params: params.text_cond[:0])
    assert host.job().images
    host.shared.opts.skip_early_cond = 1.0
    with pytest.raises((RuntimeError, ValueError)):
        host.job()


def test_a_negative_prompt_without_rows_must_be_of_the_prompts_length_as_in_the_host(start):
    host = start()
    drop_negative(host, lambda params: params.text_cond[:0])
    assert host.job(prompt=MANY).images
    host = start()
    drop_negative(host, lambda params: params.text_uncond[:0])
    with pytest.raises((RuntimeError, ValueError)):
        host.job(prompt=MANY, batch_size=2)


def test_sdxls_conditioning_is_no_plain_dict_as_in_the_host(start):
    def from_plain(cond):
        return {key: value[:0] for key, value in cond.items()}

    host = start()
    host.sd_models.switch_to(host.model(kind="sdxl"))
    drop_negative(host, lambda params: type(params.text_cond)(from_plain(params.text_cond)))
    assert host.job().images
    host = start()
    host.sd_models.switch_to(host.model(kind="sdxl"))
    drop_negative(host, lambda params: from_plain(params.text_cond))
    with pytest.raises(AttributeError):
        host.job()


def test_imported_scripts_are_registered_and_dataclasses_in_scripts_fail(host, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "a.py").write_text("from modules.scripts import Script\nclass Own(Script):\n    pass\n")
    broken = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass X:\n    a: int = 1\n"
    (tmp_path / "scripts" / "b.py").write_text(broken)
    host.scripts.load_scripts([tmp_path])
    assert [data.script_class.__name__ for data in host.scripts.scripts_data] == ["Script", "Own"]
    assert isinstance(host.errors.reports[-1][1], AttributeError)


def test_a_failing_script_costs_no_job_in_the_host(host):
    neighbour = type(host.script("txt2img", "Neighbour"))
    neighbour.process = lambda self, p, *args: 1 / 0
    host.runners["txt2img"].tolerant = True
    assert host.job().images
    assert isinstance(host.errors.reports[-1][1], ZeroDivisionError)


def test_positions_of_arguments_differ_from_tab_to_tab_and_start_after_others(host):
    assert host.script().args_from > 1
    assert host.script().args_to - host.script().args_from == len(host.script().controls)
