"""One accelerated model serves one thread at a time; two models do not meet."""

import threading
from concurrent.futures import ThreadPoolExecutor

import guided
import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import AgentAttention, TGate, TokenMerging, accelerated

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
def test_a_second_thread_runs_plain_and_the_first_is_not_disturbed(kind):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with ThreadPoolExecutor(1) as pool, accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        alone = models.call(unet)
        between = fingerprint(unet)
        gate = Gate(unet)
        first = pool.submit(models.call, unet)
        assert gate.reached.wait(WAIT)
        assert torch.equal(models.call(unet), plain)
        gate.opened.set()
        assert torch.equal(first.result(WAIT), alone)
        gate.handle.remove()
        assert not differences(between, fingerprint(unet))
        assert torch.equal(models.call(unet), alone)
    report = accelerator.report().as_dict()
    assert report["unet_calls"] == 3
    assert guided.codes(report) == ["another_thread"]


def test_pipelines_in_threads_on_one_unet():
    """As diffusers' documentation advises for servers: every request gets its picture, the others' plain while one is at work."""
    pipe = models.pipeline()
    pipes = [pipe, *(type(pipe)(**pipe.components | {"scheduler": models.scheduler()}) for _ in range(2))]
    for one in pipes:
        one.set_progress_bar_config(disable=True)
    plain = models.picture(pipe, 4)
    with accelerated(pipe, TGate(gate=0.5)):
        gated = models.picture(pipe, 4)
    entered, done = threading.Event(), threading.Event()

    def wait(pipe, index, timestep, tensors):
        entered.set()
        assert done.wait(WAIT)
        return tensors

    with ThreadPoolExecutor(1) as pool, accelerated(pipe, TGate(gate=0.5)):
        first = pool.submit(models.picture, pipe, 4, callback_on_step_end=wait)
        assert entered.wait(WAIT)
        others = [models.picture(one, 4) for one in pipes[1:]]
        done.set()
        assert torch.equal(first.result(WAIT), gated)
    assert all(torch.equal(one, plain) for one in others)


@both
def test_of_many_threads_at_once_one_is_accelerated(kind):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    with ThreadPoolExecutor(4) as pool, accelerated(unet, TokenMerging()):
        alone = models.call(unet)
        start = threading.Barrier(4)

        def enter():
            start.wait(WAIT)
            return models.call(unet)

        pictures = [outcome.result(WAIT) for outcome in [pool.submit(enter) for _ in range(4)]]
    assert all(torch.equal(picture, alone) or torch.equal(picture, plain) for picture in pictures)
    assert any(torch.equal(picture, alone) for picture in pictures)


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
