"""A complete model folder with seeded random weights, so that nothing here needs the trained ones."""

import pytest


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory):
    """A diffusers folder in the shipped model's shape, fp16, with random weights."""
    from lib_accel.sample import load_pipeline
    from sample_model.folder import write_model

    folder = tmp_path_factory.mktemp("model")
    pipeline = load_pipeline(random=True)
    write_model(folder, pipeline.vae, pipeline.text_encoder, pipeline.tokenizer, pipeline.unet)
    return folder


@pytest.fixture
def unet_arguments(tmp_path, monkeypatch):
    """Of a training of two steps on eight scenes of 64 px, but for the folder at the end."""
    from lib_accel.sample import networks
    from sample_model import batches

    networks.build_autoencoder().save_pretrained(str(tmp_path / "vae"))
    monkeypatch.setattr(batches, "BUCKETS", {(64, 64): (0, 8)})
    kinds = tuple(batches.Kind(((64, 64),), window, 128, 1.0, (1.0,) * 4) for window in (True, False))
    monkeypatch.setattr(batches, "KINDS", kinds)
    sizes = ["--reading-steps", "1", "--steps", "2", "--save-every", "1"]
    return ["--autoencoder", str(tmp_path / "vae"), *sizes, "--device", "cpu", "--out"]
