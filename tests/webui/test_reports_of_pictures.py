"""One picture, its own line: what PNG info tells of a picture, what the page tells of the job, and the same as data for the API."""

import json

import pytest
from comparing import compare
from editing import SWAP, draw, told
from stepping import last_report, methods_of

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}


def steps_of(account):
    return [entry["report"]["steps"] for entry in account["passes"]]


def data_of(done):
    return json.loads(done.js())["extra_generation_params"]["Accel account"]


@pytest.mark.parametrize("version", [(1, 10), (1, 9), (1, 7)])
def test_every_picture_of_a_batch_count_counts_its_own_steps(start, version):
    host = start(version=version)
    done = host.job(accel=ON, n_iter=3)
    alone = told(host.job(accel=ON).infotexts[0])["Accel report"].split(" in ")[0]
    lines = [told(text)["Accel report"].split(" in ")[0] for text in done.infotexts]
    assert lines == [alone] * 3
    assert steps_of(data_of(done)) == [5, 5, 5]


def test_after_a_skipped_picture_the_next_one_counts_its_own(host):
    number = [0]

    def skip(params):
        number[0] += 1
        if number[0] == 7:
            host.shared.state.skip()

    host.callbacks.on_cfg_denoiser(skip)
    done = host.job(accel=ON, n_iter=3)
    whole = told(done.infotexts[0])["Accel report"].split(" in ")[0]
    assert told(done.infotexts[2])["Accel report"].split(" in ")[0] == whole
    assert told(done.infotexts[1])["Accel report"].split(" in ")[0] != whole
    assert steps_of(data_of(done)) == [5, 2, 5]


def test_what_concerns_the_job_is_told_with_every_picture(host):
    done = host.job(accel=ON | {"preset": "Balanced"}, n_iter=2, steps=4, cfg_scale=7.0)
    few = host.job(accel={"enabled": True, "preset": "Balanced", "auto": False}, n_iter=2, steps=4, cfg_scale=7.0)
    assert ["few steps" in text for text in done.infotexts + few.infotexts] == [False, False, True, True]


def test_one_pass_is_one_pass_with_a_refiner_or_beside_calls_of_others(host):
    host.job(accel=ON, refiner_model=host.model(seed=5, name="refiner"), refiner_switch_at=0.6)
    assert sum(entry["report"]["passes"] for entry in last_report(host)["passes"]) == 1
    assert sum(steps_of(last_report(host))) == 5

    def once_more(params):
        model = host.shared.sd_model
        import torch

        model.apply_model(params.x[:1], torch.tensor([500.0]), {"c_crossattn": torch.zeros(1, 5, 16), "c_concat": torch.zeros(1, 5, 1, 1)})

    host.callbacks.on_cfg_denoised(once_more)
    host.job(accel=ON)
    assert [entry["report"]["passes"] for entry in last_report(host)["passes"]] == [1]
    assert methods_of(host)[0]["steps"] == 5


@pytest.mark.parametrize("accel", [ON, {"enabled": True, "preset": "Balanced"}])
def test_whoever_samples_in_its_own_way_is_named(host, accel):
    p = host.p("img2img", accel, n_iter=2)
    own = type(p).sample

    def sample(seeds):
        p.before_sampling = lambda x, noise: None
        return own(p, seeds)

    sample.__module__ = "img2imgalt.py"
    p.sample = sample
    done = host.processing.process_images(p)
    assert data_of(done)["notes"][""][-1:] == ["no pass was seen: img2imgalt samples in its own way"]
    assert "img2imgalt samples in its own way" in told(done.infotexts[0])["Accel report"]


def test_the_result_carries_what_the_page_says_as_data(host):
    done = host.job(accel=ON)
    assert data_of(done) == json.loads(json.dumps(last_report(host)))
    assert data_of(done)["line"] in done.comments
    refused = host.job(accel={"enabled": True, "merging.ratio": 7})
    assert "merging.ratio is 7" in data_of(refused)["complaint"]
    assert all("Accel account" not in text for text in done.infotexts)
    assert "Accel account" not in json.loads(host.job().js())["extra_generation_params"]


@pytest.mark.parametrize("script", [lambda host: compare(host), lambda host: draw(host, SWAP, accel=ON)], ids=["a/b", "edits"])
def test_the_scripts_results_do_too(host, script):
    done = script(host)
    assert data_of(done)["comments"] == done.comments.split("\n")
    assert data_of(done)["passes"]
