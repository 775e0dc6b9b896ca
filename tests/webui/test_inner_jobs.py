"""Jobs inside jobs as ADetailer runs them: for each finished picture, on a runner of its own, with calls for other scripts around."""

import copy

import pytest
from acting import DONE, did
from harness import same
from inner import detail

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.4}


@pytest.mark.parametrize("count", [1, 2])
def test_the_outer_jobs_account_stays_in_its_png_info(start, count):
    alone = start().job(accel=ON, n_iter=count)
    without = start(extension=False).job("img2img", seed=9)
    host = start()
    results = detail(host)
    done = host.job(accel=ON, n_iter=count)
    assert same(done, alone) and all(same(result, without) for result in results) and len(results) == count
    accounts = [text.split("Accel report: ") for text in done.infotexts]
    assert all("Accel merging ratio: 0.4" in told and "U-Net calls" in account for told, account in accounts)
    assert did(done, "merging", 3)
    assert done.comments.count("Accel Custom: ") == 1
    assert "Accel" not in host.job().infotexts[0]


def test_inner_jobs_that_take_our_script_along_run_by_its_settings(start):
    alone = start().job("img2img", seed=9, accel=ON)
    host = start()
    results = detail(host, kept=("Accel",))
    done = host.job(accel=ON)
    assert same(results[0], alone)
    assert "Accel report: " in done.infotexts[0] and did(done, *DONE)
    from lib_accel.webui.jobs.session import SESSION

    # The account that the routes tell is the outer job's.
    assert SESSION.last["line"] == done.comments.strip()


@pytest.mark.parametrize("version", [(1, 10), (1, 7)])
def test_an_inner_job_leaves_the_outer_jobs_png_info_alone(start, version):
    """Of few steps, and the last of several that share one dictionary."""
    host = start(version=version)
    detail(host, kept=("Accel",), steps=3)
    done = host.job(accel={"enabled": True, "preset": "Balanced", "auto": False}, steps=11, cfg_scale=7, batch_size=2, n_iter=2)
    assert len(done.infotexts) == 4
    for told, steps in zip(done.infotexts, (11, 11, 11, 11)):
        settings, account = told.split("Accel report: ")
        assert "Accel: Balanced" in settings and "Accel forecast level: fast" in settings and "Accel deepcache: True" in settings
        assert f"{steps} steps; " in account and "few steps" not in account


def test_a_copy_of_a_finished_job_begins_anew(host):
    p = host.p(accel=ON)
    host.shared.state.begin("job")
    host.processing.process_images(p)
    again = copy.copy(p)
    again.script_args = host.p().script_args
    done = host.processing.process_images(again)
    assert "Accel" not in done.infotexts[0]
