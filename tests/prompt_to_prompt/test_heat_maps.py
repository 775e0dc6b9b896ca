"""Heat maps: against maps that are held, by word, by layer and step, and without changing the picture."""

import json

import models
import prompts
import pytest
import torch

from lib_accel import HeatMaps, ImageEdit, PromptToPrompt, Row, SettingError, TokenMerging, accelerated
from lib_accel.prompt_to_prompt import Edit, heat_picture, mix
from lib_accel.prompt_to_prompt.maps import combine

TOKENS = prompts.Words(8, squirrel=2)
STREAMS = (TOKENS("a red squirrel"), TOKENS("a red lion"))
ROWS = [Row("uncond", 0), Row("uncond", 1), Row("cond", 0), Row("cond", 1)]


def given(index, h=8, w=12):
    inputs = models.inputs(4, h, w)
    inputs.text = torch.randn(4, 8, models.WIDTH, generator=torch.Generator().manual_seed(index))
    return inputs


def held_maps(unet, site, index):
    """[rows, K, h*w]: mean over heads of the layer's maps, held."""
    caught = []
    layer = site.part("attn2")
    hook = layer.register_forward_pre_hook(
        lambda module, args, kwargs: caught.append((args[0], kwargs.get("encoder_hidden_states", kwargs.get("context")))), with_kwargs=True
    )
    models.call(unet, given(index))
    hook.remove()
    x, text = caught[0]
    with torch.no_grad():
        q, k = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in (layer.to_q(x), layer.to_k(text)))
        return (q @ k.transpose(-1, -2) * layer.scale).softmax(-1).mean(1).transpose(1, 2)


@pytest.fixture(scope="module", params=["diffusers", "ldm"])
def unet(request):
    return models.UNETS[request.param]()


def watched(unet, steps=2, others=(), **settings):
    with accelerated(unet, HeatMaps(STREAMS, **settings), *others) as accelerator:
        made = []
        for index in range(steps):
            accelerator.step(index, steps, ROWS)
            made.append(models.call(unet, given(index)))
    return accelerator, made


def test_maps_are_the_means_of_those_held(unet):
    accelerator, _ = watched(unet, layers="=1/1")
    heat = accelerator.heat_maps(["squirrel", "red", "lion"])
    sites = [site for site in accelerator.sites if site.level == 0]
    wanted = torch.stack([held_maps(unet, site, index) for site in sites for index in range(2)]).mean(0)
    assert heat["red"].shape == (2, 8, 12)
    torch.testing.assert_close(heat["red"].flatten(1), wanted[2:, 2])
    torch.testing.assert_close(heat["squirrel"][0].flatten(), wanted[2, 3] + wanted[2, 4])
    assert not heat["squirrel"][1].any()
    torch.testing.assert_close(heat["lion"][1].flatten(), wanted[3, 3])


def test_watching_changes_nothing(unet):
    _, made = watched(unet)
    assert all(torch.equal(out, models.call(unet, given(index))) for index, out in enumerate(made))


def test_coarser_grids_are_brought_to_the_finest(unet):
    accelerator, _ = watched(unet)
    assert accelerator.heat_maps("red")["red"].shape == (2, 8, 12)
    flat = combine([torch.full((1, 2, 3), 0.2), torch.full((1, 4, 6), 0.4)])
    torch.testing.assert_close(flat, torch.full((1, 4, 6), 0.3))


def test_where_every_grid_is_larger_the_coarsest_is_watched(unet):
    accelerator, _ = watched(unet, layers="4")
    coarsest = max(site.level for site in accelerator.sites)
    assert accelerator.heat_maps(["red"])["red"].shape == (2, 8 >> coarsest, 12 >> coarsest)
    assert accelerator.report().as_dict()["methods"][0]["layers"] == sum(site.level == coarsest for site in accelerator.sites)


def test_every_layer_and_step_can_be_kept(unet):
    accelerator, _ = watched(unet, every_step=True)
    found = accelerator.heat_maps(["lion"], every_step=True)["lion"]
    assert {image for image, _, _ in found} == {1}
    assert len(found) == 2 * len(accelerator.sites)
    site = accelerator.sites[0]
    torch.testing.assert_close(found[1, site.name, 1].flatten(), held_maps(unet, site, 1)[3, 3])


def test_a_new_pass_begins_anew_and_the_last_stays_readable(unet):
    accelerator, _ = watched(unet, steps=1)
    once = accelerator.heat_maps("red")["red"]
    with accelerated(unet, HeatMaps(STREAMS)) as twice:
        for index in (1, 0):
            twice.step(0, 1, ROWS)
            twice.new_pass()
            twice.step(0, 1, ROWS)
            models.call(unet, given(index))
    torch.testing.assert_close(twice.heat_maps("red")["red"], once)


def test_maps_go_with_other_methods(unet):
    accelerator, _ = watched(unet, others=(TokenMerging(merge_crossattn=True),))
    assert accelerator.heat_maps("red")["red"].shape == (2, 8, 12)


def test_edited_maps_are_shown_as_edited(unet):
    """Inside the window the new word looks where the old one did."""
    pair = TOKENS("a red cat"), TOKENS("a red lion")
    method = PromptToPrompt([ImageEdit(1, 0, (mix(*pair, Edit(), 1.0),), 1.0)], self_layers="all", tokens=pair)
    with accelerated(unet, method) as accelerator:
        accelerator.step(0, 1, ROWS)
        models.call(unet, given(0))
    heat = accelerator.heat_maps(["cat", "lion"])
    torch.testing.assert_close(heat["lion"][1], heat["cat"][0])
    json.dumps(accelerator.report().as_dict())


def test_unknown_words_and_other_accelerators_are_a_sentence(unet):
    accelerator, _ = watched(unet)
    with pytest.raises(SettingError, match="has the words a, red, squirrel"):
        accelerator.heat_maps(["zebra"])
    with accelerated(unet, TokenMerging()) as other, pytest.raises(ValueError, match="watches no words"):
        other.heat_maps(["red"])
    with pytest.raises(ValueError, match="single steps were not kept"):
        accelerator.heat_maps(["red"], every_step=True)
    with pytest.raises(SettingError, match=r"HeatMaps\.tokens"):
        HeatMaps(())
    with pytest.raises(SettingError, match=r"HeatMaps\.layers"):
        HeatMaps(STREAMS, layers="some")


@pytest.mark.parametrize("every_step", [False, True])
def test_no_picture_is_read_by_the_words_of_another(unet, every_step):
    """As many prompts as a pipeline was given, which draws two pictures of each: the second was read by the second prompt's words."""

    def maps_by(*texts):
        rows = [Row("cond", image) for image in range(4)]
        with accelerated(unet, HeatMaps(tuple(map(TOKENS, texts)), every_step=every_step)) as accelerator:
            accelerator.step(0, 1, rows)
            models.call(unet, given(0))
        return accelerator.heat_maps(["squirrel"], every_step=every_step)["squirrel"]

    with pytest.raises(SettingError, match="tokens are of 2 prompts, and there are 4 pictures"):
        maps_by("a red squirrel", "a red lion")
    squirrels = maps_by("a red squirrel", "a red squirrel", "a red lion", "a red lion")
    found = {image for image, *_ in squirrels} if every_step else {image for image in range(4) if squirrels[image].any()}
    assert found == {0, 1} and len(maps_by("a red squirrel")) > len(found)


def test_maps_become_pictures():
    heat = torch.arange(12.0).unflatten(0, (3, 4))
    picture = heat_picture(heat, size=(40, 30))
    assert picture.size == (40, 30)
    assert sum(picture.getpixel((39, 29))) > sum(picture.getpixel((0, 0)))
