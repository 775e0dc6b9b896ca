"""The WebUI checkpoint: the LDM classes and diffusers read it back and compute the same."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lib_accel.sample import WeightsError, load_pipeline
from sample_model import export_webui


@pytest.fixture(scope="module")
def exported(random_folder, tmp_path_factory):
    return export_webui.export(tmp_path_factory.mktemp("web ui"), random_folder)


@pytest.fixture(scope="module")
def config(exported):
    return yaml.safe_load(exported.with_suffix(".yaml").read_text(encoding="utf-8"))["model"]["params"]


@pytest.fixture(scope="module")
def ours(random_folder):
    return load_pipeline(folder=random_folder)


def part(exported, prefix):
    state = load_file(str(exported))
    return {key[len(prefix) :]: value.float() for key, value in state.items() if key.startswith(prefix)}


def test_ldm_reads_the_unet(exported, config, ours):
    openaimodel = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    settings = config["unet_config"]["params"]
    unet = openaimodel.UNetModel(**settings).eval()
    unet.load_state_dict(part(exported, "model.diffusion_model."))
    generator = torch.Generator().manual_seed(0)
    noisy, context = torch.randn(2, 4, 32, 24, generator=generator), torch.randn(2, 77, 96, generator=generator)
    times = torch.tensor([10, 700])
    with torch.no_grad():
        torch.testing.assert_close(unet(noisy, times, context), ours.unet(noisy, times, context).sample, atol=2e-5, rtol=1e-4)


def test_ldm_reads_the_autoencoder(exported, config, ours):
    model = pytest.importorskip("ldm.modules.diffusionmodules.model")
    settings, state = config["first_stage_config"]["params"]["ddconfig"], part(exported, "first_stage_model.")
    encoder, decoder = model.Encoder(**settings).eval(), model.Decoder(**settings).eval()
    encoder.load_state_dict({key[8:]: value for key, value in state.items() if key.startswith("encoder.")})
    decoder.load_state_dict({key[8:]: value for key, value in state.items() if key.startswith("decoder.")})
    generator = torch.Generator().manual_seed(0)
    picture, latent = torch.rand(1, 3, 64, 96, generator=generator), torch.randn(1, 4, 8, 12, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(encoder(picture), ours.vae.encoder(picture), atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(decoder(latent), ours.vae.decoder(latent), atol=2e-5, rtol=1e-4)
    for name in ("quant_conv", "post_quant_conv"):
        assert torch.equal(state[f"{name}.weight"], getattr(ours.vae, name).weight)


def test_ldm_reads_the_text_encoder_from_the_folder_in_the_yaml(config, ours):
    from transformers import CLIPTextModel, CLIPTokenizer

    version = config["cond_stage_config"]["params"]["version"]
    tokenizer = CLIPTokenizer.from_pretrained(version, local_files_only=True)
    encoder = CLIPTextModel.from_pretrained(version, local_files_only=True).float().eval()
    tokens = tokenizer(["a red star"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(encoder(tokens)[0], ours.text_encoder(tokens)[0])


def test_diffusers_reads_the_single_file(exported, ours, random_folder):
    """Same latents and same picture through `from_single_file` with a local configuration."""
    from diffusers import StableDiffusionPipeline

    single = StableDiffusionPipeline.from_single_file(str(exported), config=str(random_folder), local_files_only=True)
    for output in ("latent", "np"):
        pictures = []
        for pipeline in (ours, single):
            pipeline.set_progress_bar_config(disable=True)
            generator = torch.Generator().manual_seed(3)
            pictures.append(
                pipeline("a red star", num_inference_steps=2, height=64, width=64, generator=generator, output_type=output).images
            )
        assert (torch.as_tensor(pictures[0]) - torch.as_tensor(pictures[1])).abs().max() < 1e-4


def test_the_yaml_says_what_the_model_is(config, ours):
    assert config["scale_factor"] == ours.vae.config.scaling_factor
    assert config["unet_config"]["params"]["attention_resolutions"] == [4, 2, 1]
    assert config["cond_stage_config"]["params"]["version"].endswith(export_webui.NAME)


def test_bad_folders_get_a_sentence(tmp_path, random_folder):
    with pytest.raises(ValueError, match="--webui-dir"):
        export_webui.export(tmp_path / "nowhere", random_folder)
    with pytest.raises(WeightsError, match="missing"):
        export_webui.export(tmp_path, tmp_path)
