"""Steps without the negative prompt: which rows run before and after the gate, and what the host makes of the rest."""

import numpy as np
import pytest
import torch
from acting import did, evaluations_saved, without_guidance
from harness import pixels, same
from stepping import SKIP, TGATE, methods_of, rows_by_step

MANY = "a prompt of many words"
TABLE = {
    # options, fields, rows of the U-Net calls of a guided step, and of one without the negative prompt (two pictures)
    "together": ({}, {}, [4], [2]),
    "apart": ({"batch_cond_uncond": False}, {}, [2, 2], [2]),
    "and": ({}, {"prompt": "a AND b :0.5"}, [6], [4]),
    "and, apart": ({"batch_cond_uncond": False}, {"prompt": "a AND b :0.5"}, [2, 2, 2], [2, 2]),
    "and for one": ({}, {"prompt": ["a AND b AND c", "d"]}, [6], [4]),
    "lengths": ({}, {"prompt": MANY}, [2, 2], [2]),
    "lengths, apart": ({"batch_cond_uncond": False}, {"prompt": MANY}, [2, 2], [2]),
    "long negative": ({}, {"negative_prompt": MANY}, [2, 2], [2]),
    "lengths, and": ({}, {"prompt": f"{MANY} AND b AND c"}, [4, 2, 2], [6]),
    "lengths, and, apart": ({"batch_cond_uncond": False}, {"prompt": f"{MANY} AND b AND c"}, [2, 2, 2, 2], [2, 2, 2]),
    "padded": ({"pad_cond_uncond": True}, {"prompt": MANY}, [4], [2]),
    "padded, long negative": ({"pad_cond_uncond": True}, {"negative_prompt": MANY}, [4], [2]),
}
EARLIER = {"tgate.after_gate": "uncond", "tgate.cache": "mean"}


@pytest.mark.parametrize("change", [{}, EARLIER], ids=["cond", "uncond"])
@pytest.mark.parametrize("situation", TABLE)
def test_rows_before_and_after_the_gate(host, situation, change):
    options, fields, guided, unguided = TABLE[situation]
    host.shared.opts.data.update(options)
    steps, done = rows_by_step(host, TGATE | change, batch_size=2, **fields)
    assert steps == [guided] * 2 + [unguided] * 3
    assert did(done, "cross-attention served", 7, (3, 5))
    assert without_guidance(done) == (3, 5) and evaluations_saved(done) == 3 * (sum(guided) - sum(unguided))
    assert "MiB kept" in done.comments
    assert not host.errors.reports


@pytest.mark.parametrize("change", [{}, EARLIER], ids=["cond", "uncond"])
@pytest.mark.parametrize("situation", ["together", "apart", "and", "lengths", "padded", "long negative"])
def test_sdxl_keeps_its_vectors(host, situation, change):
    host.sd_models.switch_to(host.model(kind="sdxl"))
    options, fields, guided, unguided = TABLE[situation]
    host.shared.opts.data.update(options)
    assert rows_by_step(host, TGATE | change, batch_size=2, **fields)[0] == [guided] * 2 + [unguided] * 3


SAMPLERS = {
    # evaluations of six steps, and of those the guided ones
    "Euler": (6, 3),
    "Euler a": (6, 3),
    "LCM": (6, 3),
    "Heun": (11, 5),
    "DDIM": (6, 3),
    "PLMS": (7, 3),
    "UniPC": (7, 3),
}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(host, sampler, batch_size):
    evaluations, before = SAMPLERS[sampler]
    steps, done = rows_by_step(host, TGATE, steps=6, sampler_name=sampler, batch_size=batch_size)
    assert steps == [[2 * batch_size]] * before + [[batch_size]] * (evaluations - before)
    assert evaluations_saved(done) == (evaluations - before) * batch_size


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_passes_of_a_job(host, tab):
    """Batches, the hires pass with its own gate, image to image with one denoiser for all batches."""
    if tab == "img2img":
        steps, _ = rows_by_step(host, TGATE, tab="img2img", steps=6, n_iter=2)
        assert steps == 2 * ([[2]] * 2 + [[1]] * 3)
        return
    steps, _ = rows_by_step(host, TGATE, n_iter=2, enable_hr=True)
    assert steps == 4 * ([[2]] * 2 + [[1]] * 3)
    steps, done = rows_by_step(host, TGATE | {"hires.gate": 0.7, "hires.merging_ratio": 0}, enable_hr=True)
    assert steps == [[2]] * 2 + [[1]] * 3 + [[2]] * 4 + [[1]]
    assert "Accel hires pass gate: 0.7" in done.infotexts[0]
    assert rows_by_step(host, TGATE | {"hires.profile": "off"}, enable_hr=True)[0][5:] == [[2]] * 5
    assert rows_by_step(host, TGATE | {"hires.gate": 1, "hires.merging_ratio": 0}, enable_hr=True)[0][5:] == [[2]] * 5
    assert rows_by_step(host, TGATE | {"first_pass": False}, enable_hr=True)[0] == [[2]] * 7 + [[1]] * 3


@pytest.mark.parametrize("situation", [name for name in TABLE if "and" not in name.replace(",", "").split()])
def test_the_same_as_the_hosts_own_skipping(start, situation):
    """Bit for bit, where cross-attention is left alone."""
    options, fields, _, _ = TABLE[situation]

    def skip_from_the_third(params):
        from modules import shared

        # The host decides after its callbacks.
        shared.opts.data["skip_early_cond"] = 99.0 if params.denoiser.step >= 2 else 0.0

    host = start(extension=False)
    host.shared.opts.data.update(options)
    host.callbacks.on_cfg_denoiser(skip_from_the_third)
    its_own = host.job(batch_size=2, **fields)
    host.shared.opts.data["skip_early_cond"] = 0.0
    host = start()
    host.shared.opts.data.update(options)
    assert same(host.job(accel=SKIP, batch_size=2, **fields), its_own)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("weights", [("", ""), ("", " :0.5"), (" :0.3", " :0.9")], ids=["alike", "half", "others"])
def test_parts_of_an_and_prompt_count_by_their_weights_whatever_their_order(host, weights, reuse):
    """The host's own skipping counts the first part as 1 less the others' weights: of `a AND b` nothing of a is left."""
    first, second = (f"{word}{weight}" for word, weight in zip("ab", weights))
    skip = SKIP | {"guidance.reuse": reuse}
    one, other, alone = (host.job(accel=skip, prompt=text) for text in (f"{first} AND {second}", f"{second} AND {first}", second))
    assert without_guidance(one) == without_guidance(alone)
    apart = [np.abs(pixels(done)[0].astype(int) - pixels(one)[0].astype(int)) for done in (other, alone)]
    assert apart[0].max() <= 1 < apart[1].max()


@pytest.mark.parametrize("kind", ["txt2img", "img2img", "inpainting"])
def test_inpainting_models_and_pictures(host, kind):
    if kind == "inpainting":
        host.sd_models.switch_to(host.model(conditioning_key="hybrid"))
    tab = "txt2img" if kind == "txt2img" else "img2img"
    steps, _ = rows_by_step(host, TGATE, tab=tab, steps=6, batch_size=2)
    assert set(map(tuple, steps)) == {(4,), (2,)}


def test_the_cache_alone(host):
    steps, done = rows_by_step(host, TGATE | {"tgate.drop_guidance": False})
    assert steps == [[2]] * 5
    assert did(done, "cross-attention served", 7, (3, 5)) and without_guidance(done) is None


# -- guidance at scale 1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("situation", ["together", "apart", "lengths", "padded"])
def test_at_scale_one_half_the_work_gives_the_same_picture(start, situation):
    options, fields, guided, unguided = TABLE[situation]
    host = start()
    host.shared.opts.data.update(options)
    plain = host.job(cfg_scale=1, batch_size=2, **fields)
    nothing = {"enabled": True, "preset": "Custom", "auto": False}
    steps, done = rows_by_step(host, nothing, cfg_scale=1, batch_size=2, **fields)
    assert steps == [unguided] * 5
    assert without_guidance(done) == (5, 5) and "at guidance scale 1, where it changes nothing" in done.comments
    for one, other in zip(pixels(done), pixels(plain)):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert rows_by_step(host, nothing | {"drop_at_one": False}, cfg_scale=1, batch_size=2, **fields)[0] == [guided] * 5
    of_a_method = nothing | {"guidance.on": True, "drop_at_one": False, "guidance.when": "after"}
    assert rows_by_step(host, of_a_method, cfg_scale=1, batch_size=2, **fields)[0][0] == guided


def test_at_scale_one_and_prompts_count_by_their_weights(host):
    """The negative prompt is left out where that changes nothing: where the weights add up to 1."""
    on = {"enabled": True, "preset": "Custom", "auto": False}
    plain = host.job(cfg_scale=1, prompt="a :0.5 AND b :0.5")
    steps, done = rows_by_step(host, on, cfg_scale=1, prompt="a :0.5 AND b :0.5")
    assert steps == [[2]] * 5
    assert np.abs(pixels(done)[0].astype(int) - pixels(plain)[0].astype(int)).max() <= 1
    steps, done = rows_by_step(host, on, cfg_scale=1, prompt="a AND b")
    assert steps == [[3]] * 5
    assert "the weights of the AND prompts do not add up to 1" in done.comments
    assert same(done, host.job(cfg_scale=1, prompt="a AND b"))


def test_at_scale_one_the_prompts_own_row_stays_whatever_the_gate_says(host):
    done = host.job(accel=TGATE | {"tgate.after_gate": "uncond", "tgate.gate": 1}, cfg_scale=1)
    other = host.job(accel={"enabled": True, "preset": "Custom"}, cfg_scale=1)
    assert same(done, other)


# -- a direction that is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("situation", ["together", "apart", "lengths", "and"])
def test_a_kept_direction_brings_the_picture_closer(host, situation, monkeypatch):
    """In every batching, AND prompts too: the host's own combination gets rows that guide."""
    from modules import sd_samplers_cfg_denoiser, shared

    def forward(self, x, sigma, cond):
        """In the real host's units; a network that hardly changes from step to step."""
        sigma = sigma.view(-1, 1, 1, 1)
        return x - sigma * shared.sd_model.apply_model(x * 0 + 0.1, sigma[:, 0, 0, 0] * 0, cond)

    monkeypatch.setattr(sd_samplers_cfg_denoiser.Inner, "forward", forward)
    options, fields, guided, unguided = TABLE[situation]
    host.shared.opts.data.update(options)
    fields = {"batch_size": 2, "cfg_scale": 3, **fields}
    plain = host.job(**fields)
    steps, kept = rows_by_step(host, SKIP | {"guidance.reuse": True}, **fields)
    assert steps == [guided] * 2 + [unguided] * 3
    without = host.job(accel=SKIP, **fields)

    def distance(job):
        return sum(np.square(a.astype(float) - b).mean() for a, b in zip(pixels(job), pixels(plain)))

    assert distance(kept) < distance(without)
    assert rows_by_step(host, SKIP | {"guidance.reuse": True, "guidance.every": 2}, **fields)[0] == [guided] * 2 + [
        unguided,
        guided,
        unguided,
    ]


class Denoiser(torch.nn.Module):
    """The part of the host's denoiser that `Unguided` touches."""

    def __init__(self, counts, scale, timesteps):
        super().__init__()
        from types import SimpleNamespace

        weights = [[SimpleNamespace(weight=1.0 - 0.5 * k) for k in range(count)] for count in counts]
        self.sampler = SimpleNamespace(sampler_extra_args={"cond": SimpleNamespace(batch=weights), "cond_scale": scale})
        if timesteps:
            self.alphas = torch.linspace(0.99, 0.01, 1000)

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        u = x_out[-uncond.shape[0] :]
        out = u.clone()
        for i, parts in enumerate(conds_list):
            for row, weight in parts:
                out[i] += (x_out[row] - u[i]) * (weight * cond_scale)
        return out


@pytest.mark.parametrize("timesteps", [False, True])
@pytest.mark.parametrize("counts", [[1, 1], [2, 1]])
def test_a_kept_direction_in_the_units_of_the_host(host, counts, timesteps):
    """Guidance at scale w from the rows that ran: what the host combines is u + w * sum(weights) * (c - u) with u = c - direction."""
    from types import SimpleNamespace

    from lib_accel.webui.jobs.unguided import Unguided

    rows, scale, sigma = sum(counts), 5.0, 3.0
    directions = torch.randn(2, 4, 8, 8)
    params = SimpleNamespace(
        x=torch.randn(rows + 2, 4, 8, 8),
        sigma=torch.full((rows + 2,), sigma),
        image_cond=torch.zeros(rows + 2, 5, 1, 1),
        text_cond=torch.randn(rows, 5, 16),
        text_uncond=torch.randn(2, 10, 16),
    )
    denoiser = Denoiser(counts, scale, timesteps)
    Unguided(denoiser, params, counts, "cond", lambda image: directions[image])
    assert [len(v) for v in vars(params).values()] == [rows] * 4 + [0] and params.text_uncond.shape[1] == 5
    x_out = torch.randn(rows, 4, 8, 8)
    conds_list, row = [], 0
    for count in counts:
        conds_list.append([(row + k, 1.0 - 0.5 * k) for k in range(count)])
        row += count
    out = denoiser.combine_denoised(x_out, conds_list, params.text_uncond, scale)
    unit = 1.0 if timesteps else -sigma
    for image, parts in enumerate(conds_list):
        total = sum(weight for _, weight in parts)
        mean = sum(weight / total * x_out[at] for at, weight in parts)
        torch.testing.assert_close(out[image], mean + (scale * total - 1) * unit * directions[image], atol=1e-4, rtol=1e-4)
    assert "combine_denoised" not in vars(denoiser)


def test_reports_and_png_info(host):
    done = host.job(accel=TGATE | {"tgate.cache": "mean", "guidance.on": True, "guidance.threshold": 1})
    assert "Accel t-gate: True" in done.infotexts[0] and "Accel t-gate cache: mean" in done.infotexts[0]
    skip, gate = methods_of(host)
    assert (skip["method"], gate["method"]) == ("GuidanceSkip", "TGate")
    assert (gate["unguided_steps"], gate["evaluations_saved"], gate["changed"]) == (3, 3, {"cache": "mean"})
    assert gate["cache_bytes"] > 0
