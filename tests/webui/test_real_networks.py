"""Networks that are added to a checkpoint, and weights that come and go, in a real WebUI. Skipped without A1111_ROOT."""

import numpy as np
import pytest
import real_webui
import torch

pytestmark = [pytest.mark.host, pytest.mark.skipif(real_webui.root() is None, reason="A1111_ROOT names no WebUI")]

ON = {"enabled": True, "preset": "Fast", "auto": False, "agents.max_downsample": 8, "agents.end": 1}
PREFIX = "model.diffusion_model."


def linear_layers(kinds):
    """Name in the U-Net -> shape of the weight of the checkpoint's projections."""
    shapes = real_webui.tensors(real_webui.own_checkpoint())
    found = {name.removeprefix(PREFIX): shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    return {name[: -len(".weight")]: shape for name, shape in found.items() if name.endswith(tuple(f"{kind}.weight" for kind in kinds))}


def write_lora(path):
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(3), {}
    for name, (out, inner) in linear_layers(("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_v")).items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = torch.randn(4, inner, generator=generator) * 0.2
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, 4, generator=generator) * 0.2
        tensors[f"{key}.alpha"] = torch.tensor(4.0)
    save_file(tensors, str(path))


def write_hypernetwork(path):
    generator, layers = torch.Generator().manual_seed(4), {}
    for width in {inner for _, inner in linear_layers(("attn1.to_k", "attn2.to_k")).values()}:

        def one(width=width):
            sizes = ((2 * width, width), (width, 2 * width))
            made = {f"linear.{i}.weight": torch.randn(size, generator=generator) * 0.05 for i, size in enumerate(sizes)}
            return made | {f"linear.{i}.bias": torch.zeros(size[0]) for i, size in enumerate(sizes)}

        layers[width] = [one(), one()]
    torch.save({**layers, "name": path.stem, "step": 1}, path)


@pytest.fixture(scope="module", params=["--medvram", "--lowvram"])
def webui(request, tmp_path_factory):
    data = tmp_path_factory.mktemp("networks")
    write_lora(data / "accel-test.safetensors")
    write_hypernetwork(data / "accel-test.pt")
    # The torch of the tests may write files that the host's check does not know yet.
    flags = [request.param, "--disable-safe-unpickle", "--lora-dir", str(data), "--hypernetwork-dir", str(data)]
    server = real_webui.WebUI(data, flags=flags, others=[real_webui.OWN / "witness"])
    yield server
    server.stop()


@pytest.mark.parametrize("tag", ["<lora:accel-test:1>", "<hypernet:accel-test:1>"])
def test_networks_act_with_and_without_us(webui, tag):
    prompt = "a large red star"
    plain, on = webui.job()[0], webui.job(ON)[0]
    with_network = webui.job(prompt=prompt + tag)[0]
    both = webui.job(ON, prompt=prompt + tag)[0]
    assert any(method["layers"] for method in webui.methods()) and not webui.failures()
    pictures = [plain, on, with_network, both]
    assert all(not np.array_equal(one, other) for i, one in enumerate(pictures) for other in pictures[:i])
    assert np.array_equal(webui.job(prompt=prompt + tag)[0], with_network)
    assert np.array_equal(webui.job()[0], plain)
    assert np.array_equal(webui.job(ON)[0], on)


GATE = {"enabled": True, "preset": "Custom", "auto": False, "tgate.on": True, "tgate.gate": 0.5}
AFTER = {"enabled": True, "preset": "Custom", "auto": False, "guidance.on": True, "guidance.when": "after", "guidance.after": 0.5}


@pytest.mark.parametrize("settings", [GATE, AFTER], ids=["gate", "guidance"])
@pytest.mark.parametrize("tag", ["<lora:accel-test:0.8>", "<hypernet:accel-test:0.8>"])
def test_networks_and_the_negative_prompt_left_out(webui, tag, settings):
    """A quarter of the rows of four steps is saved; networks act before and after."""
    fields = {"prompt": "a large red star" + tag, "negative_prompt": "a blue ring"}
    plain = webui.job(**fields)[0]
    traces = webui.get("/witness/traces")[1]
    webui.get("/witness/rows")
    picture, told = webui.job(settings, **fields)
    assert webui.get("/witness/rows")[1] == [2, 2, 1, 1] and webui.saved() == 2 and not webui.failures()
    assert not np.array_equal(picture, plain)
    assert not np.array_equal(picture, webui.job(settings, prompt="a large red star", negative_prompt="a blue ring")[0])
    assert np.array_equal(webui.job(**fields)[0], plain)
    assert np.array_equal(webui.job(infotext=told, **fields)[0], picture)
    assert webui.get("/witness/traces")[1] == traces


def test_a_refiner(webui):
    own = real_webui.own_checkpoint()
    others = [file.stem for file in own.parent.glob("*.safetensors") if file != own]
    if not others:
        pytest.skip("one checkpoint alone")
    refined = {"refiner_checkpoint": others[0], "refiner_switch_at": 0.5}
    plain, without = webui.job()[0], webui.job(**refined)[0]
    on = webui.job(ON, **refined)[0]
    # Two parts, or one where the host puts the weights into the same model.
    reports = [entry["report"] for entry in webui.account["passes"]]
    assert sum(report["steps"] for report in reports) == 4 and sum(report["passes"] for report in reports) == 1
    assert all(any(method["layers"] for method in report["methods"]) for report in reports)
    assert not np.array_equal(on, without)
    assert np.array_equal(webui.job(**refined)[0], without)
    assert np.array_equal(webui.job()[0], plain)
