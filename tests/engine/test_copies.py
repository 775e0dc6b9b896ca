"""Copies and pickles of a patched model are unpatched; the original stays patched."""

import copy
import io
import pickle

import models
import pytest
import torch
from traces import differences, fingerprint

from lib_accel import DeepCache, TGate, TokenMerging, accelerated, is_patched


def through_torch_save(unet):
    memory = io.BytesIO()
    torch.save(unet, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


def structure(unet):
    """What of a fingerprint does not depend on identities."""
    return {name: (of[0], of[2], {key: len(ids) for key, ids in of[3].items()}) for name, of in fingerprint(unet).items()}


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda unet: pickle.loads(pickle.dumps(unet)),
    "old pickle": lambda unet: pickle.loads(pickle.dumps(unet, protocol=0)),
    "torch.save": through_torch_save,
}


@pytest.mark.parametrize("kind", models.BOTH)
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("interrupted", [False, True])
def test_copies_are_unpatched(kind, way, interrupted):
    unet = models.UNETS[kind]()
    plain = models.call(unet)
    unpatched = structure(unet)
    with accelerated(unet, TokenMerging()) as accelerator:
        enabled = models.call(unet)
        between = fingerprint(unet)
        if interrupted:
            interrupt(unet)
            assert differences(between, fingerprint(unet))
        twin = COPIES[way](unet)
        assert structure(twin) == unpatched
        assert not is_patched(twin)
        assert torch.equal(models.call(twin), plain)
        assert is_patched(unet)
        accelerator.new_pass()
        assert torch.equal(models.call(unet), enabled)
        assert not differences(between, fingerprint(unet))
        with accelerated(twin, TokenMerging()):
            assert torch.equal(models.call(twin), enabled)
    assert torch.equal(models.call(unet), plain)


class Copying:
    """A hook that copies the U-Net while that runs, once; copies of it do nothing."""

    def __init__(self, unet, way):
        self.wanted, self.twin = (unet, way), None

    def __call__(self, *_):
        if self.wanted is not None:
            (unet, way), self.wanted = self.wanted, None
            self.twin = COPIES[way](unet)

    def __getstate__(self):
        return {"wanted": None, "twin": None}


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize(
    "method", [TokenMerging(), DeepCache(every=2, warm_up=0, last=0), TGate(gate_step=1)], ids=lambda m: type(m).__name__
)
def test_a_copy_made_during_a_call(method, way):
    """The call goes on as it would have; the copy is unpatched."""
    unet = models.diffusers_unet()
    plain, unpatched = models.one_pass(unet, h=8, w=8), structure(unet)
    with accelerated(unet, method):
        wanted = models.one_pass(unet, h=8, w=8)
    for place in ("conv_in", "mid_block", "up_blocks.2"):
        with accelerated(unet, method):
            first = models.call(unet, models.inputs(timestep=999, h=8, w=8))
            hook = Copying(unet, way)
            handle = unet.get_submodule(place).register_forward_hook(hook)
            assert torch.equal(torch.stack([first, models.call(unet, models.inputs(timestep=399, h=8, w=8))]), wanted)
        handle.remove()
        assert torch.equal(models.one_pass(hook.twin, h=8, w=8), plain)
        hook.twin.get_submodule(place)._forward_hooks.clear()
        assert structure(hook.twin) == unpatched == structure(unet)


def interrupt(unet):
    def raising(*_):
        raise KeyboardInterrupt

    handle = next(module for name, module in unet.named_modules() if name.endswith("attn2")).register_forward_hook(raising)
    with pytest.raises(KeyboardInterrupt):
        models.call(unet)
    handle.remove()


def test_a_pipelines_deep_copy():
    pipe = models.pipeline()
    plain = models.picture(pipe)
    with accelerated(pipe, TokenMerging()):
        enabled = models.picture(pipe)
        twin = copy.deepcopy(pipe)
        assert not is_patched(twin)
        assert torch.equal(models.picture(twin), plain)
        assert torch.equal(models.picture(pipe), enabled)


def test_a_holders_deep_copy():
    holder = models.latent_diffusion(models.ldm_unet())
    plain = models.call(holder.model.diffusion_model)
    with accelerated(holder, TokenMerging()):
        twin = copy.deepcopy(holder)
        assert not is_patched(twin)
        assert torch.equal(models.call(twin.model.diffusion_model), plain)


@pytest.mark.parametrize("kind", models.BOTH)
def test_hooks_of_others_are_copied(kind):
    unet = models.UNETS[kind]()
    unet.register_forward_hook(doubled)
    plain = models.call(unet)
    with accelerated(unet, TokenMerging()):
        assert torch.equal(models.call(copy.deepcopy(unet)), plain)
        assert torch.equal(models.call(pickle.loads(pickle.dumps(unet))), plain)


def doubled(module, args, out):
    return 2 * out if isinstance(out, torch.Tensor) else type(out)(sample=2 * out.sample)


def test_a_way_of_copying_that_was_there():
    unet = models.ldm_unet()
    state = dict(vars(unet), note="mine")
    unet.__getstate__ = lambda: dict(state)
    before = fingerprint(unet)
    with accelerated(unet, TokenMerging()):
        assert copy.copy(unet).note == "mine"
    assert not differences(before, fingerprint(unet))


def test_a_replica_that_shares_the_hooks_runs_plain():
    """torch's DataParallel copies a module's dictionary as it is."""
    unet = models.ldm_unet()
    plain = models.call(unet)
    with accelerated(unet, TokenMerging()) as accelerator:
        assert torch.equal(models.call(unet._replicate_for_data_parallel()), plain)
    assert accelerator.report().as_dict()["unet_calls"] == 0
