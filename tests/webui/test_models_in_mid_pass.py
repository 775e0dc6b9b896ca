"""A refiner takes over in the middle of a pass: nothing that was learnt from the first model is used, and nothing is missing."""

import pytest
from stepping import last_report
from torch.nn.modules.module import register_module_forward_pre_hook

from lib_accel.settings.schema import METHOD_GROUPS

EARLY = {"guidance.when": "after", "guidance.after": 0.2, "guidance.reuse": True, "guidance.every": 4, "tgate.gate": 0.2}
# More than those of few-step models.
STEPS, SWITCH = 12, 0.5


def asked(name):
    """The accordion's settings for a preset, or for one group of methods alone."""
    if name not in METHOD_GROUPS:
        return {"enabled": True, "preset": name, "auto": False}
    own = {knob: value for knob, value in EARLY.items() if knob.startswith(name)}
    return {"enabled": True, "preset": "Custom", "auto": False, f"{name}.on": True} | own


def other_object(host):
    return {"refiner_model": host.model(seed=5, name="refiner"), "refiner_switch_at": SWITCH}


def same_object(host):
    """As the host does when both checkpoints are of one architecture and only one may be in memory."""
    weights = host.model(seed=5).model.diffusion_model.state_dict()

    def reload(params):
        if params.denoiser.step == STEPS * SWITCH:
            host.sd_models.load_into(host.shared.sd_model, weights, "refiner")

    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("refiner", reload))
    return {}


def rows_of_steps(host, accel, **fields):
    """How many rows every step ran, whichever model it ran on."""
    steps = []
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("counting", lambda params: steps.append(0)))

    def counting(module, args):
        # Not the U-Net itself, whose hooks run in calls that are served, too.
        if module is host.shared.sd_model.model.diffusion_model.input_blocks[0]:
            steps[-1] += len(args[0])

    handle = register_module_forward_pre_hook(counting)
    try:
        done = host.job(accel=accel, steps=STEPS, cfg_scale=7.0, **fields)
    finally:
        handle.remove()
    return steps, done


@pytest.mark.parametrize("kind", [other_object, same_object])
@pytest.mark.parametrize("name", ["Quality", "Balanced", "Fast", "Draft", *METHOD_GROUPS])
def test_the_first_step_of_a_new_model_runs_whole(host, name, kind):
    steps, _ = rows_of_steps(host, asked(name), **kind(host))
    at = int(STEPS * SWITCH)
    assert steps[at] == 2, steps
    if name in ("Draft", "guidance"):
        assert 1 in steps[:at] and 1 in steps[at:], steps
        told = [m for entry in last_report(host)["passes"] for m in entry["report"]["methods"] if m["method"] == "GuidanceSkip"]
        assert [m["unguided_steps"] for m in told] == [0] * len(told)
        assert sum(m["kept_direction_steps"] for m in told) == steps.count(1)
    assert sum(entry["report"]["passes"] for entry in last_report(host)["passes"]) == 1
    assert not host.errors.reports


@pytest.mark.parametrize("name", ["Balanced", "Draft"])
def test_every_pass_begins_guided(host, name):
    steps, _ = rows_of_steps(host, asked(name), enable_hr=True, n_iter=2, hr_second_pass_steps=STEPS)
    passes = [steps[at : at + STEPS] for at in range(0, len(steps), STEPS)]
    assert len(passes) == 4 and all(one[0] == 2 and (1 in one) is (name == "Draft") for one in passes)
