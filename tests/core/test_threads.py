"""One accelerated model serves one thread at a time; two models do not meet."""

import threading
from concurrent.futures import ThreadPoolExecutor

import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import AgentAttention, TokenMerging, accelerated

both = pytest.mark.parametrize("kind", models.BOTH)
WAIT = 30


class Gate:
    """Holds the first call that comes by a layer deep in the U-Net until it is opened."""

    def __init__(self, unet):
        self.reached, self.opened = threading.Event(), threading.Event()
        layer = next(module for name, module in unet.named_modules() if name.endswith("attn2"))
        self.handle = layer.register_forward_hook(self)

    def __call__(self, *_):
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(WAIT)


@both
def test_a_second_thread_gets_a_sentence_and_the_first_is_not_disturbed(kind, monkeypatch):
    monkeypatch.delenv("ACCEL_STRICT")
    unet = models.UNETS[kind]()
    with ThreadPoolExecutor(1) as pool, accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        alone = models.call(unet)
        between = fingerprint(unet)
        gate = Gate(unet)
        first = pool.submit(models.call, unet)
        assert gate.reached.wait(WAIT)
        with pytest.raises(RuntimeError, match="already running in another thread"):
            models.call(unet)
        gate.opened.set()
        assert torch.equal(first.result(WAIT), alone)
        gate.handle.remove()
        assert not differences(between, fingerprint(unet))
        assert torch.equal(models.call(unet), alone)
    assert accelerator.report().as_dict()["unet_calls"] == 3


@both
def test_of_many_threads_at_once_one_gets_in(kind):
    unet = models.UNETS[kind]()
    with ThreadPoolExecutor(4) as pool, accelerated(unet, TokenMerging()):
        alone = models.call(unet)
        gate, start = Gate(unet), threading.Barrier(4)

        def enter():
            start.wait(WAIT)
            try:
                return models.call(unet)
            except RuntimeError as error:
                refused.append(error)
                if len(refused) == 3:
                    gate.opened.set()
                return error

        refused = []
        outcomes = [outcome.result(WAIT) for outcome in [pool.submit(enter) for _ in range(4)]]
    pictures = [outcome for outcome in outcomes if isinstance(outcome, torch.Tensor)]
    assert len(pictures) == 1
    assert torch.equal(pictures[0], alone)


@both
def test_after_an_interrupt_in_a_thread_that_lives_on(kind):
    unet = models.UNETS[kind]()
    before = fingerprint(unet)

    def raising(*_):
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool:
        with accelerated(unet, TokenMerging()):
            enabled = models.call(unet)
            handle = next(module for name, module in unet.named_modules() if name.endswith("attn2")).register_forward_hook(raising)
            broken = pool.submit(models.call, unet)
            assert isinstance(broken.exception(WAIT), KeyboardInterrupt)
            handle.remove()
            assert torch.equal(models.call(unet), enabled)
            assert torch.equal(pool.submit(models.call, unet).result(WAIT), enabled)
        assert not differences(before, fingerprint(unet))


@both
def test_removed_by_another_thread_during_a_call(kind):
    """The layers that are still to come run plain; nothing breaks and nothing is left."""
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    before = fingerprint(unet)
    accelerator = accelerated(unet, AgentAttention(merge_mlp=True, window=(0, 1)))
    gate = Gate(unet)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(models.call, unet)
        assert gate.reached.wait(WAIT)
        accelerator.remove()
        gate.opened.set()
        assert torch.isfinite(first.result(WAIT)).all()
    gate.handle.remove()
    assert not differences(before, fingerprint(unet))
    assert torch.equal(models.call(unet), plain)


def test_two_models_in_two_threads():
    jobs = [(models.ldm_unet(1), TokenMerging()), (models.diffusers_unet(2), AgentAttention(window=(0, 1)))]
    accelerators = [accelerated(unet, method) for unet, method in jobs]
    alone = [[models.call(unet, models.inputs(timestep=t)) for t in (999, 500, 1)] for unet, _ in jobs]
    start = threading.Barrier(2)

    def run(unet):
        start.wait(WAIT)
        return [models.call(unet, models.inputs(timestep=t)) for t in (999, 500, 1)]

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(run, [unet for unet, _ in jobs]))
    for one, other in zip(alone, together):
        assert all(torch.equal(a, b) for a, b in zip(one, other))
    for accelerator in accelerators:
        assert accelerator.report().as_dict()["unet_calls"] == 6
        accelerator.remove()
