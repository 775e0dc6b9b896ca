"""The training scripts run, repeat themselves for a seed, and go on where they were stopped. Tiny: a few steps, a few scenes."""

from types import SimpleNamespace

import pytest
import torch

from sample_model import losses, optimizers, train_autoencoder, train_diffusion, training


class StoppedError(Exception):
    """Stands for a run that is killed right after its first checkpoint."""


def weights(folder):
    modules = torch.load(folder / "checkpoint.pt", weights_only=True)["average"]
    return {f"{name}.{key}": value for name, state in modules.items() for key, value in state.items()}


def stop_after_the_first_checkpoint(monkeypatch):
    save = training.save_checkpoint

    def save_and_stop(*arguments):
        save(*arguments)
        raise StoppedError

    monkeypatch.setattr(training, "save_checkpoint", save_and_stop)


def same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_autoencoder_resumes_as_if_never_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(train_autoencoder, "STAGES", ((0.0, 32, 2), (0.5, 64, 1)))
    monkeypatch.setattr(train_autoencoder, "measure", lambda *_: {"grey_levels": 9.0, "latent_std": 2.0})
    arguments = ["--steps", "2", "--save-every", "1", "--device", "cpu", "--out"]
    assert train_autoencoder.main([*arguments, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as context, pytest.raises(StoppedError):
        stop_after_the_first_checkpoint(context)
        train_autoencoder.main([*arguments, str(tmp_path / "halves")])
    assert train_autoencoder.main([*arguments, str(tmp_path / "halves"), "--resume"]) == 0
    same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    assert '"scaling_factor": 0.5' in (tmp_path / "whole" / "vae" / "config.json").read_text()


def test_sharpening_the_decoder_leaves_every_latent_as_it_was(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from lib_accel.sample import networks

    monkeypatch.setattr(train_autoencoder, "STAGES", ((0.0, 32, 1),))
    monkeypatch.setattr(train_autoencoder, "measure", lambda *_: {"grey_levels": 9.0, "latent_std": 2.0})
    networks.build_autoencoder().save_pretrained(str(tmp_path / "start"))
    arguments = ["--begin-with", str(tmp_path / "start"), "--decoder-only", "--steps", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert train_autoencoder.main(arguments) == 0
    before, after = (load_file(str(tmp_path / name / "diffusion_pytorch_model.safetensors")) for name in ("start", "vae"))
    changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"decoder", "post_quant_conv"}
    with pytest.raises(SystemExit):
        train_autoencoder.main(["--decoder-only", "--out", str(tmp_path)])


def test_the_unet_resumes_as_if_never_stopped_and_the_model_draws(tmp_path, monkeypatch, unet_arguments):
    from lib_accel.sample import load_pipeline

    assert train_diffusion.main([*unet_arguments, str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as context, pytest.raises(StoppedError):
        stop_after_the_first_checkpoint(context)
        train_diffusion.main([*unet_arguments, str(tmp_path / "halves")])
    assert train_diffusion.main([*unet_arguments, str(tmp_path / "halves"), "--resume"]) == 0
    same(weights(tmp_path / "whole"), weights(tmp_path / "halves"))
    pipeline = load_pipeline(folder=tmp_path / "halves" / "model")
    assert pipeline("a red star", num_inference_steps=1, height=64, width=64).images[0].size == (64, 64)


@pytest.mark.parametrize("light", [False, True])
def test_an_optimizer_that_begins_anew_begins_with_small_steps(tmp_path, light):
    options = SimpleNamespace(out=tmp_path, seed=0, rate=1e-3, save_every=300, steps=1000, minutes=None, resume=False)
    layer = torch.nn.Linear(2, 2)
    run = training.Run(options, {"layer": layer}, list(layer.parameters()), 0.0)
    run.budget.step = 299
    run.learn(layer(torch.ones(1, 2)).sum())
    assert run.save_in_time()
    if light:
        training.lighten(run.checkpoint, tmp_path / "light.pt")
        (tmp_path / "light.pt").replace(run.checkpoint)
    options.resume = True
    later = training.Run(options, {"layer": layer}, list(layer.parameters()), 0.0)
    later.learn(layer(torch.ones(1, 2)).sum())
    wanted = training.learning_rate(1e-3, 0.0, 0) if light else training.learning_rate(1e-3, 0.3, 300)
    assert later.optimizer.param_groups[0]["lr"] == pytest.approx(wanted)


def test_a_light_checkpoint_is_small_and_goes_on(tmp_path, monkeypatch, unet_arguments):
    with monkeypatch.context() as context, pytest.raises(StoppedError):
        stop_after_the_first_checkpoint(context)
        train_diffusion.main([*unet_arguments, str(tmp_path)])
    whole = tmp_path / "checkpoint.pt"
    before = torch.load(whole, weights_only=True)
    training.lighten(whole, tmp_path / "light.pt")
    assert 9 * (tmp_path / "light.pt").stat().st_size < whole.stat().st_size
    kept = torch.load(tmp_path / "light.pt", weights_only=True)["modules"]["unet"]
    for key, value in before["modules"]["unet"].items():
        off = (training._in_full(kept[key]) - value).flatten(1 if value.ndim > 1 else 0).abs()
        assert (off.amax(-1) <= (value.flatten(1).abs().amax(-1) / 250 if value.ndim > 1 else 0)).all(), key
    (tmp_path / "light.pt").replace(whole)
    assert train_diffusion.main([*unet_arguments, str(tmp_path), "--resume"]) == 0
    after = torch.load(whole, weights_only=True)
    assert after["step"] > before["step"] and "optimizer" in after


def test_a_model_to_go_on_from_keeps_its_shape(tmp_path, unet_arguments):
    from lib_accel.sample import load_pipeline

    first, second = ([*unet_arguments, str(tmp_path / name), "--steps", "1"] for name in ("first", "second"))
    assert train_diffusion.main([*first, "--shape", "sd15"]) == 0
    assert train_diffusion.main([*second, "--begin-with", str(tmp_path / "first" / "model")]) == 0
    channels = load_pipeline(folder=tmp_path / "second" / "model").unet.config.block_out_channels
    assert tuple(channels) == (32, 64, 128, 128)


def test_a_wrong_mean_of_the_noise_counts_more_than_as_wrong_a_pattern():
    levels, times = losses.noise_levels(), torch.tensor([3, 500, 700, 990])
    pattern = torch.ones(4, 4, 8, 8)
    pattern[:, :, ::2] = -1
    by_pattern, by_mean, by_nothing = (
        losses.noise_error(error, times, levels).item() for error in (pattern, torch.ones_like(pattern), 0 * pattern)
    )
    assert by_nothing == 0 < by_pattern and by_mean == pytest.approx((1 + losses.MEAN_WEIGHT) * by_pattern, rel=1e-4)


def test_training_scenes_are_never_held_out():
    from lib_accel.sample import scenes
    from sample_model import latents

    assert not any(scenes.is_held_out(latents.training_scene(0, index)) for index in range(300))


def test_a_pause_does_not_eat_the_budget(monkeypatch):
    clock = iter([0.0, 2.0, 1000.0, 1001.0])
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    budget = training.Budget(minutes=1)
    for _ in range(4):
        budget.tick()
    assert budget.seconds == 2 + training.LONGEST_STEP + 1 and not budget.done
    with pytest.raises(ValueError, match="either steps or minutes"):
        training.Budget()


def test_the_rate_warms_up_and_falls():
    rates = [training.learning_rate(1.0, step / 1000, step) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(1, abs=0.05) and rates[-1] == pytest.approx(0.02)


def test_muon_makes_every_direction_of_a_matrix_step_equally_long():
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict({"hidden": torch.nn.Conv2d(4, 8, 3), "conv_out": torch.nn.Conv2d(8, 4, 3)})
    matrices = optimizers.hidden_matrices(layers)
    assert [tuple(weight.shape) for weight in matrices] == [(8, 4, 3, 3)]
    before = {name: parameter.detach().clone() for name, parameter in layers.named_parameters()}
    optimizer = optimizers.MuonAndAdamW(layers.parameters(), matrices, rate=0.01, weight_decay=0.0)
    layers["conv_out"](layers["hidden"](torch.randn(2, 4, 9, 9))).square().mean().backward()
    optimizer.step()
    steps = {name: parameter.detach() - before[name] for name, parameter in layers.named_parameters()}
    lengths = torch.linalg.svdvals(steps["hidden.weight"].flatten(1).double()) / (0.01 * 0.2 * 36**0.5)
    assert lengths.min() > 0.6 and lengths.max() < 1.3  # of 1, as near as five iterations in bfloat16 come
    for name in ("hidden.bias", "conv_out.weight", "conv_out.bias"):  # AdamW's first step is as long as the rate in every number
        assert steps[name].abs().mean().item() == pytest.approx(0.01, rel=0.02), name
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in layers.parameters())
