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
