"""The trainer of the flow-matching transformer: what it packs is what the pipeline packs, and two steps of it write a model that draws."""

import diffusers
import pytest
import torch

from lib_accel.cli.main import main
from lib_accel.cli.passes import asked
from sample_model import attention, batches, evaluate, losses, train_flow


def test_it_is_small():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in train_flow.build_transformer().parameters()) <= 8_000_000


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 8)])
def test_patches_are_the_pipelines(height, width):
    latents = torch.randn(2, 4, height, width)
    pipeline = diffusers.FluxPipeline
    assert torch.equal(train_flow.packed(latents), pipeline._pack_latents(latents, 2, 4, height, width))
    places = pipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    assert torch.equal(train_flow.places_of(height, width, "cpu"), places)


def test_noise_is_spread_over_all_of_it():
    torch.manual_seed(0)
    shares = train_flow.noise_shares(1000)
    assert shares.min() > 0 and shares.max() < 1 and shares[:50].max() < 0.2 and shares[-50:].min() > 0.85
    assert (shares.diff() > -1e-6).float().mean() > 0.99, "one from each stretch"


def test_the_loss_is_that_of_the_velocity():
    """A model that knows picture and noise has none, at whatever share."""
    clean = torch.randn(4, 4, 4, 4)

    def knows(hidden_states, timestep, **_):
        held = timestep.view(-1, 1, 1)
        noise = (hidden_states - (1 - held) * train_flow.packed(clean)) / held
        return diffusers.models.modeling_outputs.Transformer2DModelOutput(sample=noise - train_flow.packed(clean))

    loss = train_flow.loss_of(knows, torch.zeros(4, 77, 96), torch.zeros(4, 96), clean)
    assert loss < 1e-6


def test_the_teacher_tells_the_velocity():
    """Of a U-Net that knows the noise it is the noise less the picture; the U-Net is shown latents and timesteps of its own kind."""
    clean, noise, levels = torch.randn(5, 4, 4, 4), torch.randn(5, 4, 4, 4), losses.noise_levels()
    shares = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.92])
    held = shares.view(-1, 1, 1, 1)

    class Knows(torch.nn.Module):
        device = torch.device("meta")

        def forward(self, noisy, times, words):
            left = levels[times].view(-1, 1, 1, 1)
            torch.testing.assert_close(noisy, left.sqrt() * clean + (1 - left).sqrt() * noise, atol=0.02, rtol=0)
            return diffusers.models.unets.unet_2d_condition.UNet2DConditionOutput(sample=noise)

    velocity = train_flow.Teacher(Knows()).velocity((1 - held) * clean + held * noise, shares, torch.zeros(5, 77, 96))
    torch.testing.assert_close(velocity, noise - clean, atol=1e-4, rtol=1e-4)


def test_the_teacher_is_asked_where_it_was_trained():
    clean, asked_of = torch.randn(64, 4, 4, 4), []

    def says(noisy, shares, words):
        asked_of.extend(shares.tolist())
        return torch.zeros_like(noisy)

    def predicts(hidden_states, **_):
        return diffusers.models.modeling_outputs.Transformer2DModelOutput(sample=torch.zeros_like(hidden_states))

    words = torch.zeros(64, 32, 96), torch.zeros(64, 96)
    alone, taught = (train_flow.loss_of(predicts, *words, clean, says, share) for share in (0.0, 1.0))
    assert 50 < len(asked_of) < 64 and max(asked_of) < train_flow.TEACHER_NOISE and taught < alone / 2


def test_attention_for_training_is_the_models_own():
    torch.manual_seed(0)
    transformer = train_flow.build_transformer()
    given = {
        "hidden_states": torch.randn(2, 16, 16),
        "timestep": torch.rand(2),
        "encoder_hidden_states": torch.randn(2, 5, 96),
        "pooled_projections": torch.randn(2, 96),
        "img_ids": train_flow.places_of(8, 8, "cpu"),
        "txt_ids": torch.zeros(5, 3),
    }
    own = transformer(**given).sample
    transformer.set_attn_processor(attention.FluxTrainingAttention())
    torch.testing.assert_close(transformer(**given).sample, own, atol=1e-5, rtol=1e-4)


def test_two_steps_write_a_folder_that_loads_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(batches, "BUCKETS", {(64, 64): (0, 8)})
    kinds = tuple(batches.Kind(((64, 64),), window, 128, 1.0, (1.0,) * 4) for window in (True, False))
    monkeypatch.setattr(train_flow, "KINDS", kinds)
    small = train_flow.TRANSFORMER | {"num_layers": 1, "num_single_layers": 2}
    monkeypatch.setattr(train_flow, "TRANSFORMER", small)
    assert train_flow.main(["--steps", "2", "--save-every", "1", "--device", "cpu", "--no-compile", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "model"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, low_cpu_mem_usage=False)
    assert type(pipeline) is diffusers.FluxPipeline and pipeline.transformer.config.num_single_layers == 2
    given = asked(pipeline, "a red star", 2, 5.0, 64)
    assert (given["max_sequence_length"], given["true_cfg_scale"], given["negative_prompt"]) == (train_flow.WORDS, 5.0, " ")
    assert pipeline(**given).images[0].size == (64, 64)
    ids = torch.tensor([[1, 5, 7, *[2] * (train_flow.WORDS - 3)]])
    longer = torch.nn.functional.pad(ids, (0, 77 - train_flow.WORDS), value=2)
    read, cut = pipeline.text_encoder(longer).last_hidden_state, pipeline.text_encoder_2(ids).last_hidden_state
    torch.testing.assert_close(cut, read[:, : train_flow.WORDS], atol=1e-4, rtol=1e-4)
    trained = pipeline.transformer.proj_out.weight
    assert trained.isfinite().all() and (tmp_path / "checkpoint.pt").exists()
    drawn = ["--model", str(folder), "--count", "2", "--steps", "1", "--size", "64", "--out", str(tmp_path / "evaluation")]
    assert evaluate.main(drawn) == 0 and "all right" in capsys.readouterr().out
    words = f"--size 64 --steps 12 --count 1 --preset --method --variants forecast:every=2 spectrum taylorseer --out {tmp_path}"
    assert main(["quality", "--model", str(folder), *words.split()]) == 0
    told = capsys.readouterr().out
    assert "not run" not in told and "in part" in told
