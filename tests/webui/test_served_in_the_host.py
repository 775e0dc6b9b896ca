"""Whole calls and stages that are served, where the WebUI's denoiser calls the U-Net and others put forwards on it."""

import importlib

import guided
import pytest
import torch
from acting import blocks, unet_of
from harness import same
from serving import ServeCalls, ServeStage, Shallow, res_blocks_run
from traces import differences, fingerprint

from lib_accel.engine.instance_forward import InstanceForward

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}
kinds = pytest.mark.parametrize("kind", ["sd1", "sdxl"])


@pytest.fixture
def serving(host, monkeypatch):
    """Runs jobs with methods in place of those of their settings."""
    session, open_pass = (importlib.import_module(f"lib_accel.webui.jobs.{name}") for name in ("session", "open_pass"))

    def job(*methods, **fields):
        with monkeypatch.context() as patch:
            patch.setattr(open_pass, "methods_for", lambda *_: (methods, None))
            return host.job(accel=ON, **fields)

    job.report = lambda: session.SESSION.last["passes"][-1]["report"]
    return job


@kinds
@pytest.mark.parametrize("batch", [1, 2])
def test_calls_that_are_served_run_nothing(host, serving, kind, batch):
    host.sd_models.switch_to(host.model(kind=kind))
    unet = unet_of(host)
    ran = res_blocks_run(unet)
    before = fingerprint(unet)
    plain = host.job(batch_size=batch)
    whole = len(ran)
    ran.clear()
    served = serving(ServeCalls(every=3), batch_size=batch)
    # Steps 0 and 3 of 5 are run.
    assert len(ran) == whole * 2 // 5 and not same(served, plain)
    report = serving.report()
    assert (report["calls_run"], report["calls_served"], report["rows_served"]) == (2, 3, 6 * batch)
    assert not differences(before, fingerprint(unet))
    assert same(serving(ServeCalls(every=1), batch_size=batch), plain)
    assert same(host.job(batch_size=batch), plain)


@kinds
@pytest.mark.parametrize("method", [ServeStage(8, every=1), Shallow(2, every=1)], ids=["stage", "shallow"])
def test_stages_that_are_only_watched_change_nothing(host, serving, kind, method):
    host.sd_models.switch_to(host.model(kind=kind))
    plain = host.job()
    assert same(serving(method), plain) and serving.report()["stages_served"] == 0


@kinds
def test_shallow_calls_and_sizes_that_do_not_divide(host, serving, kind):
    host.sd_models.switch_to(host.model(kind=kind))
    unet = unet_of(host)
    before = fingerprint(unet)
    plain = host.job(width=72, height=104)
    for method in (ServeStage(8), Shallow(1), Shallow(3), Shallow(2, images=(1,))):
        served = serving(method, width=72, height=104, batch_size=2)
        report = serving.report()
        # Where one picture runs its deep stages, they are run.
        assert report["calls_run"] == 5 and bool(report["stages_served"]) == (getattr(method, "images", None) is None)
        assert len(served.images) == 2 and not differences(before, fingerprint(unet))
    assert same(host.job(width=72, height=104), plain)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("method", [ServeCalls(every=3), Shallow(2, every=3)], ids=["calls", "stages"])
def test_errors_and_interrupts_leave_nothing(host, serving, method, error):
    unet = unet_of(host)
    plain = host.job()
    before = fingerprint(unet)
    calls = []

    def fail(*_):
        calls.append(None)
        if len(calls) == 4:
            raise error("on purpose")

    handle = unet.register_forward_pre_hook(fail)
    with pytest.raises(error):
        serving(method)
    handle.remove()
    # The next job sweeps.
    assert same(host.job(), plain)
    assert not differences(before, fingerprint(unet))


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_control_that_comes_and_goes(host, serving, monkeypatch, when):
    """ControlNet puts its forward on the U-Net before a job is sampled and gives back the one that it found after it."""
    unet = unet_of(host)
    plain = host.job()
    before = fingerprint(unet)
    networks = []

    def put(*_):
        kept = unet.forward

        def forward(*args, **kwargs):
            networks.append(torch.ones(1))
            return kept(*args, **kwargs)

        unet.forward, unet.kept = forward, kept

    def take_off(*_):
        unet.forward = unet.__dict__.pop("kept")

    neighbour = type(host.script("txt2img", "Neighbour"))
    spot = "process_batch" if when == "before" else "process_before_every_sampling"
    monkeypatch.setattr(neighbour, spot, lambda self, p, *args, **told: put(), raising=False)
    monkeypatch.setattr(neighbour, "postprocess_batch", lambda self, p, *args, **told: take_off(), raising=False)
    serving(ServeCalls(every=3))
    report = serving.report()
    assert report["calls_served"] == 3
    told = [code for code in guided.codes(report) if code in ("forward_over_ours", "other_rows")]
    assert (len(networks), bool(told)) in {(2, False), (5, True)}
    monkeypatch.undo()
    vars(unet).pop("kept", None)
    assert same(host.job(), plain)
    # What the neighbour put back, if that is not ours.
    assert not isinstance(vars(unet).pop("forward", None), InstanceForward)
    assert not differences(before, fingerprint(unet))


def pairing(module, pictures):
    """NegPiP's attention: of twice as many rows as pictures the second half is the negative prompt's, of others all are the prompt's."""

    def forward(x, context=None, mask=None):
        text = context.clone()
        text[: pictures if len(x) == 2 * pictures else len(x)] += 1
        return type(module).forward(module, x, text, mask)

    return forward


@pytest.mark.parametrize("method", [ServeCalls(every=3, images=(1,)), Shallow(2, images=(1,))], ids=["calls", "stages"])
def test_pictures_are_not_skipped_one_by_one_beside_attention_that_counts_rows(host, serving, method):
    for block in blocks(host):
        block.attn2.forward = pairing(block.attn2, 2)
    plain = host.job(batch_size=2)
    served = serving(method, batch_size=2)
    assert same(served, plain)
    assert "a forward from test_served_in_the_host is on" in served.comments


@pytest.mark.parametrize("method", [ServeCalls(every=3, images=(1,)), Shallow(2, images=(1,))], ids=["calls", "stages"])
def test_pictures_are_not_skipped_one_by_one_beside_modules_that_mix_rows(host, serving, method):
    class Frames(torch.nn.Module):
        """Motion modules: each frame sees the mean of all."""

        def forward(self, x):
            return x + x.unflatten(0, (2, -1)).mean(1, keepdim=True).expand(-1, len(x) // 2, -1, -1, -1).flatten(0, 1)

    torch.nn.Sequential.append(unet_of(host).input_blocks[1], Frames())
    plain = host.job(batch_size=2)
    served = serving(method, batch_size=2)
    assert same(served, plain) and "is a Frames of test_served_in_the_host" in served.comments
