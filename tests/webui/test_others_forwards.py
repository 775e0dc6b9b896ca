"""What other extensions and the host do to the layers and weights of the same model while a job of ours runs, one test for each way."""

import pytest
import torch
import torch.nn.functional as F
from acting import AGENTS, DONE, ON, blocks, did, evaluations_saved, unet_of
from harness import pixels, same
from torch import nn
from traces import differences, fingerprint


def test_classes_keep_their_names_while_we_act(host):
    """Regional Prompter and PAG find attention layers by the name of their class."""
    before = [type(module) for module in unet_of(host).modules()]
    seen = []
    handle = unet_of(host).middle_block.register_forward_hook(lambda *_: seen.append([type(m) for m in unet_of(host).modules()]))
    host.job(accel=AGENTS)
    handle.remove()
    assert len(seen) == 5 and all(types == before for types in seen)


def test_the_users_kernel_runs_wherever_we_do_not_replace_the_computation(host):
    from ldm.modules.attention import CrossAttention

    chosen, seen = CrossAttention.forward, []

    def kernel(self, x, context=None, mask=None, **kwargs):
        seen.append(x.shape[1])
        return chosen(self, x, context, mask, **kwargs)

    CrossAttention.forward = kernel
    host.job()
    plain = list(seen)
    seen.clear()
    assert did(host.job(accel=ON), *DONE)
    assert len(seen) == len(plain) and sum(seen) < sum(plain)
    seen.clear()
    host.job(accel=AGENTS)
    # Three layers of five steps are computed by agents, all others by the kernel.
    assert len(seen) == len(plain) - 3 * 5


def test_attention_forwards_of_others_come_and_go(start):
    """Regional Prompter sets and deletes the forward of every cross-attention layer; IP-Adapter leaves one that only passes on."""
    without = start(extension=False).job()
    host = start()
    neighbour = type(host.script("txt2img", "Neighbour"))

    def leave_one(self, p, *args, **told):
        for block in blocks(host):
            for layer in (block.attn1, block.attn2):
                layer.forward = lambda *a, layer=layer, **k: type(layer).forward(layer, *a, **k)

    def take_away(self, p, *args, **told):
        for block in blocks(host):
            for layer in (block.attn1, block.attn2):
                vars(layer).pop("forward", None)

    neighbour.process_batch = leave_one
    plain = host.job(accel=ON)
    assert did(plain, *DONE)
    assert same(host.job(), without)
    neighbour.postprocess_batch = take_away
    assert same(host.job(accel=ON), plain)
    assert not any("forward" in vars(module) for module in unet_of(host).modules())
    neighbour.process_batch = lambda self, p, *args, **told: None
    assert same(host.job(), without)


def test_controlnets_reference_runs_blocks_twice_through_forwards_that_it_keeps(start):
    """It keeps each block's inner forward, calls it with a context of its own, and puts it back as an attribute of the block."""
    bank = {}

    def reference(host):
        for block in blocks(host):
            block.kept = block._forward

            def forward(x, context=None, block=block):
                if len(bank.setdefault(id(block), [])) == 0:
                    bank[id(block)].append(x)
                    return block.kept(x, context)
                both = torch.cat([block.norm1(x), block.norm1(bank[id(block)].pop())], 1)
                x = block.attn1(block.norm1(x), context=both) + x
                x = block.attn2(block.norm2(x), context=context) + x
                return block.ff(block.norm3(x)) + x

            block._forward = forward

    def twice(host):
        unet = unet_of(host)

        def forward(*args, **kwargs):
            type(unet).forward(unet, *args, **kwargs)
            return type(unet).forward(unet, *args, **kwargs)

        unet.forward = forward

    def end(host):
        del unet_of(host).forward
        for block in blocks(host):
            block._forward = block.kept

    host = start(extension=False)
    reference(host), twice(host)
    without = host.job()
    bank.clear()
    host = start()
    reference(host), twice(host)
    on = host.job(accel=ON)
    assert "for 5 of 5 steps" in on.comments and "5 steps, 5 U-Net calls" in on.comments
    assert "error" not in on.comments
    assert same(host.job(), without)
    end(host)
    assert did(host.job(accel=ON), *DONE)


def test_controlnets_reference_keeps_every_row(host):
    """It runs blocks on as many rows as the first step had, so none may be dropped later."""
    made = {}
    file = "/extensions/sd-webui-controlnet/scripts/hook.py"
    exec(compile("def hacked(self, x, context=None):\n    return type(self)._forward(self, x, context)\n", file, "exec"), made)
    rows = []
    unet_of(host).register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    gate = ON | {"tgate.on": True, "tgate.gate": 0.4}
    assert evaluations_saved(host.job(accel=gate)) > 0 and rows == [2, 2, 1, 1, 1]
    rows.clear()
    for block in blocks(host):
        block._forward = made["hacked"].__get__(block)
    done = host.job(accel=gate)
    assert "T-GATE off: ControlNet's reference needs every row of every step" in done.comments and did(done, *DONE)
    assert rows == [2] * 5
    for block in blocks(host):
        block._forward = type(block)._forward.__get__(block)
    assert evaluations_saved(host.job(accel=gate)) > 0


def test_a_token_more_between_the_sampler_and_the_unet(start):
    """ControlNet marks every conditioning with one token, and takes it off in the U-Net's forward that it put in place."""

    def mark(params):
        for name in ("text_cond", "text_uncond"):
            text = getattr(params, name)
            setattr(params, name, torch.cat([torch.ones_like(text[:, :1]), text], 1))

    def marked(host):
        host.callbacks.on_cfg_denoiser(mark)
        unet = unet_of(host)
        unet.forward = lambda x, timesteps=None, context=None, **more: type(unet).forward(unet, x, timesteps, context[:, 1:], **more)
        return host

    without = marked(start(extension=False)).job()
    assert same(without, start(extension=False).job())
    host = marked(start())
    assert same(host.job(), without)
    done = host.job(accel=ON | {"merging.plan_every": 2})
    assert did(done, *DONE) and "another extension" not in done.comments


def test_hooks_that_rewrite_what_attention_is_given(host):
    """Token Downsampling (ToDo) puts its context into the arguments of every finest layer."""

    def fewer(module, args, kwargs):
        return args, {**kwargs, "context": args[0][:, ::2]}

    blocks(host)[0].attn1.register_forward_pre_hook(fewer, with_kwargs=True)
    done = host.job(accel=ON)
    assert "of 7 layers for 5 of 5 steps" in done.comments and "error" not in done.comments


def test_lora_by_the_class_of_linear_layers(start):
    """The host's LoRA replaces Linear.forward and puts weights in place when a layer is called: projections must be called."""
    plain = nn.Linear.forward

    def with_lora(self, x):
        key = self.weight.shape
        generator = torch.Generator().manual_seed(key[0] * 1000 + key[1])
        return plain(self, x) + F.linear(x, torch.randn(key, generator=generator) * 0.05)

    def in_weights(unet):
        for module in unet.modules():
            if type(module) is nn.Linear:
                generator = torch.Generator().manual_seed(module.weight.shape[0] * 1000 + module.weight.shape[1])
                module.weight.data += torch.randn(module.weight.shape, generator=generator) * 0.05

    host = start()
    nn.Linear.forward = with_lora
    try:
        by_class = host.job(accel=AGENTS)
    finally:
        nn.Linear.forward = plain
    assert did(by_class, "agents", 3, (5, 5)) and did(by_class, "merging", 3, (5, 5))
    host = start()
    in_weights(unet_of(host))
    merged = host.job(accel=AGENTS)
    assert abs(pixels(by_class)[0].astype(int) - pixels(merged)[0]).max() <= 1
    host = start()
    assert not same(host.job(accel=AGENTS), merged)


@pytest.mark.parametrize("granularity", ["whole", "parts"])
def test_weights_that_are_brought_in_when_a_part_is_called(start, granularity):
    """medvram brings in the whole U-Net when it is called, lowvram one stage after the other."""
    without = start(extension=False).job(accel=None)
    expected = start().job(accel=AGENTS)
    host = start()
    unet = unet_of(host)
    host.shared.sd_model.lowvram = True
    before = fingerprint(unet)
    parts = [unet] if granularity == "whole" else [unet.time_embed, *unet.input_blocks, unet.middle_block, *unet.output_blocks, unet.out]
    kept, inside, handles = {}, [], []

    def send_away(part):
        for parameter in part.parameters():
            kept[parameter] = parameter.data
            parameter.data = torch.full_like(parameter.data, float("nan"))

    def bring_in(part, args):
        for other in inside:
            send_away(other)
        inside[:] = [part]
        for parameter in part.parameters():
            parameter.data = kept.pop(parameter, parameter.data)

    for part in parts:
        send_away(part)
        handles.append(part.register_forward_pre_hook(bring_in))
    on, off = host.job(accel=AGENTS), host.job()
    for handle in handles:
        handle.remove()
    assert same(on, expected) and same(off, without)
    assert differences(before, fingerprint(unet)) == set()
