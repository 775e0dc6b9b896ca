"""TeaCache and the like: a forward in a model's class, or on the model, that counts calls and keeps what one returned for the next."""

import inspect
import types

import models
import pytest
import torch
import transformers_tiny as tiny

from lib_accel import DeepCache, Forecast, GuidanceSkip, Row, accelerated

STEPS = 16
FREE = Forecast(tolerance=1000.0, largest_gap=1, last=2)
TEACACHE = """
def forward(self, {arguments}):
    run = self.cnt % 3 == 0 or self.cnt == self.num_steps - 1
    self.cnt = (self.cnt + 1) % self.num_steps
    if run:
        self.kept = plain(self, {passed})
    return self.kept if return_dict else (self.kept[0],)
"""


def teacache(kind):
    """Its forward for the class ``kind``, as its module would have it."""
    plain = kind.forward
    signature = inspect.signature(plain)
    names = list(signature.parameters)[1:]
    code = TEACACHE.format(arguments=", ".join(f"{name}=None" for name in names), passed=", ".join(f"{name}={name}" for name in names))
    made = {"__name__": "teacache_flux", "plain": plain, **{n: v for n, v in inspect.unwrap(plain).__globals__.items() if "Output" in n}}
    exec(code.replace("return self.kept if", "Transformer2DModelOutput\n    return self.kept if"), made)
    return made["forward"]


@pytest.mark.parametrize("place", ["class", "model"])
def test_a_transformers_calls_run_where_another_counts_them(monkeypatch, place):
    """Calls that it does not see would leave it out of step for the next picture."""
    flux, why = tiny.build("FluxPipeline")
    assert flux is not None, why
    flux.given["num_inference_steps"] = STEPS
    model, forward = flux.model, teacache(type(flux.model))
    model.cnt, model.num_steps = 0, STEPS
    if place == "class":
        monkeypatch.setattr(type(model), "forward", forward)
    else:
        model.forward = types.MethodType(forward, model)
    plain = flux.draw()
    with accelerated(flux.pipe, FREE) as accelerator:
        beside = flux.draw()
    (reason,) = accelerator.report().as_dict()["methods"][0]["reasons"]
    assert reason["code"] == "calls_run" and (reason["why"]["code"], reason["why"]["home"]) == ("forward", "teacache_flux")
    assert torch.equal(beside, plain) and torch.equal(flux.draw(), plain)


@pytest.mark.parametrize("method", [Forecast(every=2), DeepCache(), GuidanceSkip(when="after", after=0.2)])
def test_a_u_net_with_a_forward_in_its_class_runs_whole(monkeypatch, method):
    unet = models.ldm_unet()
    plain, kept = type(unet).forward, []
    made = {"__name__": "blockcache.py", "plain": plain}
    exec("def forward(self, x, timesteps=None, context=None):\n    return plain(self, x, timesteps, context)", made)
    monkeypatch.setattr(type(unet), "forward", made["forward"])
    handle = unet.middle_block.register_forward_hook(lambda module, args, out: kept.append(len(out)))
    torch.manual_seed(0)
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 7, models.WIDTH)
    with torch.no_grad(), accelerated(unet, method) as accelerator:
        for index in range(STEPS):
            sigmas = [float(STEPS - step) for step in range(STEPS + 1)]
            more = {"sigmas": sigmas, "sigma": sigmas[index], "sampler": "Euler", "guidance": 5.0}
            accelerator.step(index, STEPS, [Row("uncond"), Row("cond")], **more)
            unet(x, torch.full((2,), 900.0 - 10 * index), text)
    handle.remove()
    assert kept == [2] * STEPS
    assert "a forward from blockcache.py is on the model's class" in str(accelerator.report())
