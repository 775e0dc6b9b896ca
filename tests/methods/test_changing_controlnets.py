"""What is kept from step to step while something else that predictions depend on, such as a ControlNet unit, begins or ends."""

import guided
import models
import pytest

from lib_accel import DeepCache, GuidanceSkip, TGate, accelerated

BEGINS_AT = 4
METHODS = {
    # The rows of every step where nothing changes, and where it does.
    "tgate": (TGate(gate_step=2), [2, 2, 1, 1, 1, 1], [2, 2, 1, 1, 2, 1]),
    "direction": (GuidanceSkip(when="after", after=0.3, reuse=True), [2, 2, 1, 1, 1, 1], [2, 2, 1, 1, 2, 1]),
    "similar": (GuidanceSkip(threshold=0.0), [2, 1, 1, 1, 1, 1], [2, 1, 1, 1, 2, 1]),
}


def run(unet, method, changes):
    """(the rows that every step of a pass ran, its predictions, the method's account)."""
    ran = guided.rows_run(unet)
    with accelerated(unet, method) as accelerator:
        told = [(index >= BEGINS_AT and changes,) for index in range(6)]
        made = [guided.step(unet, accelerator, index, 6, state=state) for index, state in enumerate(told)]
        return ran, made, guided.account(accelerator)


@pytest.mark.parametrize("kind", models.BOTH)
@pytest.mark.parametrize("name", METHODS)
def test_what_was_kept_before_is_let_go(kind, name):
    method, same, changed = METHODS[name]
    unet = models.UNETS[kind]()
    assert run(unet, method, False)[0] == same
    assert run(unet, method, True)[0] == changed


@pytest.mark.parametrize("kind", models.BOTH)
def test_a_layer_is_not_served_what_another_unit_made_of_it(kind):
    """T-GATE that keeps guidance: the step of the change is as without it."""
    unet = models.UNETS[kind]()
    _, made, _ = run(unet, TGate(gate_step=2, drop_guidance=False), True)
    plain = [guided.step(unet, guided.Silent(), index, 6) for index in range(6)]
    same = [all((one[key] == other[key]).all() for key in one) for one, other in zip(made, plain)]
    assert same == [True, True, False, False, True, False]


def test_deep_stages_are_not_served_from_before_the_change():
    method = DeepCache(every=6, warm_up=0.0, last=0)
    whole = [run(models.UNETS["ldm"](), method, changes)[2]["shallow_steps"] for changes in (False, True)]
    assert whole == [5, 4]
