"""One batch of Prompt-to-Prompt between two moments of the host: local blend on what samplers go by, the host's own tokens."""

import re
from types import SimpleNamespace

import pytest
import torch

from lib_accel.core.fields import SettingError


class Runner:
    """Of the method; gives the same masks always."""

    def __init__(self, masks):
        self.given = masks
        self.account = SimpleNamespace(note=lambda text: None)

    def masks(self, size):
        return self.given


@pytest.fixture
def batch(host):
    from lib_accel.webui.prompt_to_prompt.batch import EditedBatch
    from lib_accel.webui.prompt_to_prompt.grid import Cell

    return EditedBatch(None, [Cell(), Cell(line=1)])


MASK = torch.zeros(4, 6)
MASK[1:3, 2:5] = 1
ALPHAS = torch.linspace(0.999, 0.01, 1000, dtype=torch.float64).float()


def after(batch, denoiser, latents, sigma, x):
    params = SimpleNamespace(x=latents.repeat(2, 1, 1, 1), sigma=sigma.repeat(2))
    batch.before_step(SimpleNamespace(running=lambda kind: Runner({1: MASK})), denoiser, params)
    made = SimpleNamespace(x=x.clone())
    batch.after_step(made)
    return made.x


def test_pictures_are_blended_as_they_are(batch):
    latents, x = torch.randn(2, 3, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    out = after(batch, SimpleNamespace(), latents, torch.tensor([3.0] * 3), x)
    assert torch.equal(out[0], x[0]) and torch.equal(out[2], x[2])
    assert torch.allclose(out[1], torch.where(MASK == 0, x[0], x[1]), atol=1e-6)
    assert torch.equal(out[1] * (MASK == 0), x[0] * (MASK == 0))


@pytest.mark.parametrize("timestep", [1.0, 400.0, 981.0])
def test_of_noise_the_picture_in_it_is_blended(batch, timestep):
    latents, noise = torch.randn(2, 3, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    denoiser = SimpleNamespace(alphas=ALPHAS, need_last_noise_uncond=True, last_noise_uncond=noise * 2)
    out = after(batch, denoiser, latents, torch.tensor([timestep] * 3), noise)
    alpha = ALPHAS[int(timestep)].double()

    def picture(e):
        return (latents.double() - (1 - alpha).sqrt() * e.double()) / alpha.sqrt()

    wanted = picture(noise)
    wanted[1] = torch.where(MASK == 0, wanted[0], wanted[1])
    assert torch.allclose(picture(out), wanted, atol=1e-5)
    assert torch.equal(out[0], noise[0]) and torch.equal(out[2], noise[2])
    assert torch.allclose(denoiser.last_noise_uncond[1], torch.where(MASK == 0, noise[0], noise[1]) * 2, atol=1e-6)


def test_equal_latents_outside_the_mask_stay_equal(batch):
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(2)).repeat(3, 1, 1, 1)
    noise = torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(3))
    out = after(batch, SimpleNamespace(alphas=ALPHAS), latents, torch.tensor([500.0] * 3), noise)
    assert torch.allclose(out[1] * (MASK == 0), out[0] * (MASK == 0), atol=1e-6)


def test_other_batches_are_left_alone(batch):
    x = torch.randn(5, 4, 4, 6)
    assert torch.equal(after(batch, SimpleNamespace(), x, torch.ones(5), x), x)


class Text:
    """A text encoder's tokenizer as the host's: words are tokens by their length and first letter; an embedding is called ``emb``."""

    chunk_length, id_start, id_end, id_pad = 6, 1, 2, 0

    def __init__(self, joins=False):
        self.joins = joins

    def tokenize(self, texts):
        return [[ord(word[0]) * 100 + len(word) for word in text.replace(",", " , ").split()] for text in texts]

    def tokenize_line(self, text):
        from modules import prompt_parser

        chunks, current, fixes = [], [], []
        for part, weight in prompt_parser.parse_prompt_attention(text):
            if (part, weight) == ("BREAK", -1):
                chunks, current, fixes = [*chunks, (current, fixes)], [], []
                continue
            for token in self.tokenize([part])[0]:
                found = token == self.tokenize(["emb"])[0][0]
                size = 3 if found else 1
                if len(current) + size > self.chunk_length:
                    chunks, current, fixes = [*chunks, (current, fixes)], [], []
                if found:
                    fixes = [*fixes, SimpleNamespace(offset=len(current), embedding=SimpleNamespace(name="emb", vectors=3))]
                current = current + ([0] * 3 if found else [token])
        chunks += [(current, fixes)] if current or not chunks else []
        if self.joins:
            chunks[0][0][0] += 1
        made = []
        for content, its_fixes in chunks:
            tokens = [self.id_start, *content, *[self.id_end] * (self.chunk_length + 1 - len(content))]
            made.append(SimpleNamespace(tokens=tokens, fixes=its_fixes))
        return made, 0


def stream(text, **given):
    from lib_accel.webui.prompt_to_prompt import host_text

    return host_text.tokens_of(SimpleNamespace(cond_stage_model=Text(**given)), text)


def test_words_are_where_the_host_puts_them(host):
    found = stream("a (red:1.3) emb, cat BREAK on a mat")
    assert found.words == ["a", "red", "emb", "cat", "on", "a", "mat"]
    assert found.find("red") == [2] and found.find("emb") == [3, 4, 5]
    # The first chunk is full before the cat.
    assert found.find("cat") == [9] and found.find("mat") == [19]
    assert found.chunks == 3 and found.ids[0] == 1 and found.ids[8] == 1
    # SD2's padding is another token than the end.
    assert found.ids[found.end_of(2)] == 2 and found.ids[-1] == 0


def test_an_embedding_is_a_word_whatever_is_in_its_name(host, monkeypatch):
    """The host reads the whole name as one; its tokenizer takes it apart."""
    name = "<my toy>"
    marks = re.compile(r"\w+|[^\w\s]+")
    monkeypatch.setattr(Text, "tokenize", lambda self, texts: [[ord(w[0]) * 100 + len(w) for w in marks.findall(text)] for text in texts])

    def line(self, text):
        before, after = (self.tokenize([part])[0] for part in text.split(name))
        fix = SimpleNamespace(offset=len(before), embedding=SimpleNamespace(name=name, vectors=2))
        content = [*before, 0, 0, *after]
        return [SimpleNamespace(tokens=[1, *content, *[2] * (7 - len(content))], fixes=[fix])], 0

    monkeypatch.setattr(Text, "tokenize_line", line)
    found = stream(f"a {name} mat")
    assert found.words == ["a", name, "mat"]
    assert found.find(name) == found.find("my toy") == found.find("toy") == [2, 3] and found.find("mat") == [4]


def test_tokens_that_were_moved_are_words_of_their_own(host):
    found = stream("a red cat", joins=True)
    assert found.words == ["#0", "#1", "#2"] or len(found.content) == 3


def test_sdxl_is_tokenized_by_its_first_encoder(host):
    from lib_accel.webui.prompt_to_prompt import host_text

    whole = SimpleNamespace(cond_stage_model=SimpleNamespace(embedders=[object(), Text()]))
    assert host_text.tokens_of(whole, "a cat").words == ["a", "cat"]


def test_what_the_host_cannot_pad_or_place_is_refused(host, monkeypatch):
    from lib_accel.webui.prompt_to_prompt import host_text

    host.shared.opts.data["use_old_emphasis_implementation"] = True
    with pytest.raises(SettingError, match="Use old emphasis implementation"):
        stream("a cat")
    host.shared.opts.data.clear()
    from modules import prompt_parser

    # With emphasis switched off the host knows no BREAK.
    monkeypatch.setattr(prompt_parser, "parse_prompt_attention", lambda text: [[text, 1.0]])
    with pytest.raises(SettingError, match="1 to 2 chunks"):
        host_text.padded(["a cat", "a b c d e f g"], SimpleNamespace(cond_stage_model=Text()))


def test_comments_are_no_words(host):
    from lib_accel.webui.prompt_to_prompt import host_text

    assert host_text.without_comments("a cat # not a dog") == "a cat # not a dog"
    host.shared.opts.data["enable_prompt_comments"] = True
    assert host_text.without_comments("a cat # not a dog\n# nor this\non a mat") == "a cat \non a mat"
