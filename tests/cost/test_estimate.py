"""The formulas of the estimate against multiply-adds counted where they happen."""

from functools import partial

import pytest

from lib_accel import AgentAttention, GuidanceSkip, TGate, TokenDownsampling, TokenMerging, accelerated
from lib_accel.cli.architectures import build_unet
from lib_accel.cli.inputs import UNetInputs
from lib_accel.cost.estimate import SHAPES, step_work
from lib_accel.cost.macs import count_macs

NAMES = {"sd1": "sd15", "sd2": "sd21", "sdxl": "sdxl"}
METHODS = {
    "merging": TokenMerging(ratio=0.5, max_downsample=2),
    "agents": AgentAttention(window=(0, 1)),
    "downsampling": TokenDownsampling(factor=2, deeper_factor=2),
}


def counted(unet, side):
    torch = pytest.importorskip("torch")
    return count_macs(unet, partial(UNetInputs(unet, side * 8, 1, torch.float32, "meta"), unet)).total


@pytest.mark.parametrize("shape", NAMES)
def test_plain(shape):
    pytest.importorskip("diffusers")
    unet = build_unet(NAMES[shape], "diffusers", device="meta")
    for side in (32, 72):
        assert step_work(SHAPES[shape], side, side, rows=1) == pytest.approx(counted(unet, side), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    pytest.importorskip("diffusers")
    unet = build_unet("sd15", "diffusers", device="meta")
    plain = counted(unet, 64)
    with accelerated(unet, METHODS[method], auto=False):
        fewer = counted(unet, 64)
    assert fewer < 0.97 * plain
    assert step_work(SHAPES["sd1"], 64, 64, [(METHODS[method], (method,))], rows=1) == pytest.approx(fewer, rel=0.02)


def test_methods_that_are_not_worth_it_and_text_from_a_cache():
    shape = SHAPES["sd1"]
    merging = [(METHODS["merging"], ("merging",))]
    plain = step_work(shape, 64, 64)
    assert step_work(shape, 64, 64, merging, {TokenMerging: 5000}) == plain
    assert step_work(shape, 64, 64, merging, {TokenMerging: 4096}) < plain
    assert step_work(shape, 64, 64, [(TGate(), ("gated",))]) == pytest.approx(plain - 2 * 16_047_472_640, rel=1e-6)
    gated, unguided = (TGate(), ("gated", "unguided")), (GuidanceSkip(), ("unguided",))
    assert step_work(shape, 64, 64, [unguided]) == plain / 2
    # Rows that one method leaves out are not left out again by another.
    assert step_work(shape, 64, 64, [gated, unguided]) == step_work(shape, 64, 64, [gated])
