"""When Accel's own code fails the layer runs as it was, the method is off from then on, and the report says so."""

import guided
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import AgentAttention, TokenMerging, accelerated
from lib_accel.methods.planning import Planner
from lib_accel.ops.merging import MergePlan

both = pytest.mark.parametrize("kind", models.BOTH)


class FaultError(Exception):
    pass


@pytest.fixture
def lenient(monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")


def failing(*_args, **_kwargs):
    raise FaultError("on\npurpose")


SPOTS = {
    "merge": (MergePlan, "merge"),
    "unmerge": (MergePlan, "unmerge"),
    "match": (Planner, "_match"),
    "plan": (Planner, "prepare"),
    "plan for": (Planner, "plan_for"),
    "agents": ("lib_accel.methods.agent_attention", "agent_attention"),
}


def break_at(spot, monkeypatch, error=failing):
    owner, name = SPOTS[spot]
    monkeypatch.setattr(*([f"{owner}.{name}"] if isinstance(owner, str) else [owner, name]), error)


@both
@pytest.mark.parametrize("spot", SPOTS)
def test_the_job_goes_on_as_if_the_method_were_off(kind, spot, lenient, monkeypatch):
    unet = models.UNETS[kind]()
    plain = models.plain_pass(kind)
    before = fingerprint(unet)
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        break_at(spot, monkeypatch)
        broken = models.call(unet, models.inputs(timestep=999))
        monkeypatch.undo()
        after = models.call(unet, models.inputs(timestep=399))
    assert torch.equal(torch.stack([broken, after]), plain)
    failed = accelerator.report().as_dict()["methods"][0]["failed"]
    assert failed.startswith("FaultError: on purpose (at ")
    assert failed in str(accelerator.report())
    assert not differences(before, fingerprint(unet))


@both
def test_only_the_method_that_failed_is_off(kind, lenient, monkeypatch):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with accelerated(unet, AgentAttention(window=(0, 0.4)), TokenMerging(window=(0.4, 1))) as accelerator:
        break_at("agents", monkeypatch)
        assert torch.equal(models.call(unet, models.inputs(timestep=999)), plain)
        models.call(unet, models.inputs(timestep=399))
    agents, merging = accelerator.report().as_dict()["methods"]
    assert agents["failed"]
    assert (merging["failed"], merging["steps"], merging["layers"]) == (None, 1, 3)


@both
@pytest.mark.parametrize("spot", SPOTS)
def test_strict_raises(kind, spot, monkeypatch):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        break_at(spot, monkeypatch)
        with pytest.raises(FaultError):
            models.call(unet)
        accelerator.sweep()
    assert not differences(before, fingerprint(unet))


@both
def test_failing_to_arm(kind, lenient, monkeypatch):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    with accelerated(unet, TokenMerging()) as accelerator:
        made = []
        original = torch.nn.Module.register_forward_pre_hook

        def third_fails(module, *args, **kwargs):
            made.append(module)
            return original(module, *args, **kwargs) if len(made) < 3 else failing()

        monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", third_fails)
        assert torch.equal(models.call(unet), plain)
        monkeypatch.undo()
    (reason,) = accelerator.report().as_dict()["reasons"]
    assert (reason["code"], reason["error"]) == ("error", "FaultError: on purpose")
    assert not differences(before, fingerprint(unet))


@both
@pytest.mark.parametrize("strict", ["", "1"])
def test_an_error_of_the_layer_itself_propagates_and_nobody_is_blamed(kind, strict, monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", strict)
    unet = models.UNETS[kind]()
    layer = next(module for name, module in unet.named_modules() if name.endswith("attn1.to_q"))
    handle = layer.register_forward_hook(failing)
    for method in (AgentAttention(window=(0, 1)), TokenMerging()):
        with accelerated(unet, method) as accelerator, pytest.raises(FaultError):
            models.call(unet)
        assert accelerator.report().as_dict()["methods"][0]["failed"] is None
    handle.remove()


@both
def test_a_layer_that_cannot_do_with_fewer_tokens(kind, lenient):
    """Hypertile asserts height x width tokens: it gets them, and merging is off."""
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    for name, module in unet.named_modules():
        if name.endswith("attn1"):

            def forward(*args, before=module.forward, **kwargs):
                if args[0].shape[1] not in (256, 64, 16):
                    failing()
                return before(*args, **kwargs)

            module.forward = forward
    with accelerated(unet, TokenMerging()) as accelerator:
        assert torch.equal(models.call(unet), plain)
    told = accelerator.report().as_dict()["methods"][0]
    # On diffusers' layers nobody tries.
    assert told["failed"] if kind == "ldm" else guided.layers_why(told) == {("forward", __name__, "attn1"): 3}


@both
@pytest.mark.parametrize("strict", ["", "1"])
@pytest.mark.parametrize("spot", ["merge", "plan", "agents"])
def test_an_interrupt_in_our_own_code_passes(kind, strict, spot, monkeypatch):
    monkeypatch.setenv("ACCEL_STRICT", strict)
    unet = models.UNETS[kind]()

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    before = fingerprint(unet)
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        break_at(spot, monkeypatch, interrupted)
        with pytest.raises(KeyboardInterrupt):
            models.call(unet)
    assert accelerator.report().as_dict()["methods"][0]["failed"] is None
    assert not differences(before, fingerprint(unet))
