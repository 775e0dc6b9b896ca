"""Calls that a method cannot take over keep the layer's own attention, and the report names the reason."""

import cases
import models
import pytest
import torch

from lib_accel import AgentAttention, TokenMerging, accelerated


def reasons(accelerator):
    return {reason: count for method in accelerator.report().as_dict()["methods"] for reason, count in method["stood_down"].items()}


def level_zero_unet(**more):
    """Attention at level 0 alone, where one attention mask fits all layers."""
    return models.diffusers_unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2D",
        **more,
    )


@pytest.mark.parametrize("method", cases.METHODS)
@pytest.mark.parametrize(
    ("build", "off"),
    [
        (models.ldm_unet, {"disable_self_attentions": [True, True, True], "disable_middle_self_attn": True}),
        (models.diffusers_unet, {"only_cross_attention": True}),
    ],
    ids=models.BOTH,
)
def test_first_attention_that_is_cross_attention(build, off, method):
    """`disable_self_attn`, `only_cross_attention`: attn1 looks at the text."""
    unet = build(**off)
    plain = models.one_pass(unet)
    with accelerated(unet, *cases.METHODS[method]) as accelerator:
        enabled = models.one_pass(unet)
    layers = 6 if method == "downsampling" else 3
    if method == "everywhere":
        # The middle block of diffusers has no such switch.
        layers = 7 if build is models.ldm_unet else 6
    assert reasons(accelerator)["self-attention was given a context"] == layers
    if method != "everywhere":
        assert torch.equal(enabled, plain)


def test_only_some_levels_disabled():
    unet = models.ldm_unet(disable_self_attentions=[True, False, False])
    with accelerated(unet, TokenMerging(max_downsample=4)) as accelerator:
        models.call(unet)
    assert reasons(accelerator) == {"self-attention was given a context": 3}
    assert accelerator.report().as_dict()["methods"][0]["layers"] == 4


@pytest.mark.parametrize("method", ["agents", "merging", "stages"])
def test_a_mask_on_self_attention(method):
    unet = level_zero_unet()
    mask = torch.ones(2, 256)
    mask[:, 100:] = 0
    with torch.no_grad():
        given = models.inputs()
        plain = models.call(unet, given, attention_mask=mask)
        assert not torch.allclose(plain, models.call(unet, given))
        with accelerated(unet, *cases.METHODS[method]) as accelerator:
            assert torch.equal(models.call(unet, given, attention_mask=mask), plain)
    assert reasons(accelerator) == {"an attention mask was given": 3}


def test_a_mask_on_the_text_leaves_self_attention_to_the_method():
    unet = models.diffusers_unet()
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    plain = models.call(unet, encoder_attention_mask=mask)
    with accelerated(unet, AgentAttention(merge_crossattn=True, window=(0, 1))) as accelerator:
        assert not torch.allclose(models.call(unet, encoder_attention_mask=mask), plain, atol=1e-3)
    assert reasons(accelerator) == {"an attention mask was given": 3}
    assert accelerator.report().as_dict()["methods"][0]["layers_by_effect"] == {"agents": 3, "merging": 3}


@pytest.mark.parametrize("method", ["agents", "merging"])
def test_attention_injection(method):
    """ControlNet's reference mode replaces a block's inner forward and gives attn1 more tokens to look at, or just its own."""
    unet = models.ldm_unet()
    other = torch.randn(2, 7, 32, generator=torch.Generator().manual_seed(0))

    def inject(block, more):
        def inner(x, context=None):
            tokens = block.norm1(x)
            x = block.attn1(tokens, context=torch.cat([tokens, other], 1) if more else tokens) + x
            x = block.attn2(block.norm2(x), context=context) + x
            return block.ff(block.norm3(x)) + x

        return inner

    for more in (True, False):
        for name, block in unet.named_modules():
            if name.endswith("transformer_blocks.0"):
                block._forward = inject(block, more)
        plain = models.call(unet)
        with accelerated(unet, *cases.METHODS[method]) as accelerator:
            enabled = models.call(unet)
        assert torch.equal(enabled, plain) == more
        assert reasons(accelerator) == ({"self-attention was given a context": 3} if more else {})


def test_a_mask_given_to_an_ldm_layer():
    unet = models.ldm_unet()
    for name, block in unet.named_modules():
        if name.endswith("transformer_blocks.0"):
            block.attn1.register_forward_pre_hook(
                lambda module, args, kwargs: (args, kwargs | {"mask": torch.arange(args[0].shape[1]).repeat(2, 1) < 3}), with_kwargs=True
            )
    plain = models.call(unet)
    with accelerated(unet, AgentAttention(window=(0, 1))) as accelerator:
        assert torch.equal(models.call(unet), plain)
    assert reasons(accelerator) == {"an attention mask was given": 3}


@pytest.mark.parametrize("kind", models.BOTH)
def test_other_tokens_than_the_blocks(kind):
    """A neighbour that tiles (hypertile) or reduces tokens on the way into a layer: the layer runs on what it was given."""
    unet = models.UNETS[kind]()
    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.register_forward_pre_hook(
                lambda module, args, kwargs: ((args[0].unflatten(1, (2, -1)).flatten(0, 1),), kwargs), with_kwargs=True
            )
            module.register_forward_hook(lambda module, args, out: out.unflatten(0, (-1, 2)).flatten(1, 2))
    plain = models.call(unet)
    with accelerated(unet, *cases.METHODS["agents"]) as accelerator:
        assert torch.equal(models.call(unet), plain)
    assert reasons(accelerator) == {"the layer was given other tokens than its block": 3}
