"""The model folder: it loads as it is, draws for any prompt, and says clearly when a file is damaged."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from lib_accel import sample
from lib_accel.sample.networks import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(sample.model_folder() / "tokenizer")


def draw(pipeline, prompt, **settings):
    settings = {"num_inference_steps": 2, "height": 64, "width": 64, "output_type": "np"} | settings
    return pipeline(prompt, generator=torch.Generator().manual_seed(0), **settings).images[0]


def test_importing_the_sample_loads_nothing_heavy():
    code = "import sys, lib_accel.sample; print([m for m in ('diffusers', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_random_weights_need_no_file_and_leave_the_random_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = (sample.load_pipeline(random=True) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(draw(first, "a red star"), draw(second, "a red star"))


def test_the_folder_loads_as_it_is(random_folder):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(random_folder, local_files_only=True)
    assert pipeline.safety_checker is None
    assert draw(pipeline, sample.DEFAULT_PROMPT).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "prompt", ["", "a quokka surfing", "\U0001f600 日本語 \x00 \ufffe é", "star " * 200, "<|endoftext|> a", "(red:1.3) [x]"]
)
def test_any_prompt_draws(random_folder, prompt):
    picture = draw(sample.load_pipeline(folder=random_folder), prompt, num_inference_steps=1)
    assert np.isfinite(picture).all()


def test_sizes_that_do_not_fit_get_a_sentence(random_folder):
    with pytest.raises(ValueError, match="divisible by 8"):
        draw(sample.load_pipeline(folder=random_folder), "a red star", height=100)


@pytest.mark.parametrize("name", sample.WEIGHT_FILES)
def test_a_damaged_or_missing_file_is_named(random_folder, tmp_path, name):
    folder = tmp_path / "model"
    shutil.copytree(random_folder, folder)
    assert sample.has_weights(folder)
    whole = (folder / name).read_bytes()
    for broken, word in ((whole[: len(whole) // 2], "damaged"), (b"", "damaged"), (b"\xff" * 64, "damaged"), (None, "missing")):
        (folder / name).unlink()
        if broken is not None:
            (folder / name).write_bytes(broken)
        assert not sample.has_weights(folder)
        with pytest.raises(sample.WeightsError, match=word) as caught:
            sample.load_pipeline(folder=folder)
        assert name in str(caught.value).replace("\\", "/") and "\n" not in str(caught.value)


def test_every_word_of_the_world_is_one_token(tokenizer):
    from lib_accel.sample import scenes

    words = [*scenes.SHAPES, *scenes.COLOURS, *scenes.TEXTURES, *scenes.SIZES, *scenes.BACKGROUNDS, *scenes.RELATIONS, "and", "a"]
    for word in words:
        assert len(tokenizer(word).input_ids) == 3, word
        assert tokenizer(word.upper()).input_ids == tokenizer(word).input_ids


@pytest.mark.parametrize(
    "text", ["a red star", "xyzzy", "naïve café", "日本 \U0001f600", "(a:1.2), [b] | {c} \\ / AND", "12.5 %", "\x01\x7f"]
)
def test_the_tokenizer_loses_nothing(tokenizer, text):
    assert "".join(tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).split()) == "".join(text.lower().split())


def test_prompts_are_cut_at_77_tokens(tokenizer):
    tokens = tokenizer("a very long prompt " * 50, padding="max_length", truncation=True, max_length=77).input_ids
    assert len(tokens) == 77 and tokens[0] == tokenizer.bos_token_id and tokens[-1] == tokenizer.eos_token_id
    assert tokenizer.model_max_length == 77


def test_the_tokenizer_is_what_the_builder_writes(tmp_path):
    from sample_model.build_tokenizer import build

    build(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (sample.model_folder() / "tokenizer" / name).read_bytes()


def test_the_shipped_weights_are_small():
    assert sum((sample.model_folder() / name).stat().st_size for name in sample.WEIGHT_FILES) <= 16 * 2**20


def test_the_shipped_model_draws_what_it_is_told():
    from lib_accel.sample import captions, checker

    pipeline, prompts = sample.load_pipeline(), ["a large red star on grass", "a large blue circle at night"]
    for prompt in prompts:
        picture = draw(pipeline, prompt, num_inference_steps=12, height=256, width=256, guidance_scale=5.0)
        verdict = checker.judge((picture * 255).astype(np.uint8), captions.parse(prompt))
        assert verdict.background and verdict.colours == (True,) and verdict.shapes == (True,)
