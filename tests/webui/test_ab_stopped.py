"""The script "Accel A/B": runs that are interrupted or skipped, and jobs inside of its runs."""

import pytest
from acting import did
from comparing import ON, compare, during
from inner import detail


@pytest.mark.parametrize(("at", "kept"), [(2, 1), (4, 2)])
def test_an_interruption_keeps_what_was_drawn_and_counts_no_unfinished_run(host, monkeypatch, at, kept):
    run, count = host.processing.process_images, []

    def process_images(p):
        count.append(p)
        if len(count) == at:
            host.callbacks.on_cfg_denoiser(lambda params: host.shared.state.interrupt())
        return run(p)

    monkeypatch.setattr(host.processing, "process_images", process_images)
    done = compare(host, repeats=3)
    assert len(count) == at
    assert len(done.images) >= kept and len(done.images) == len(done.infotexts)
    if at == 2:
        assert "accelerated: stopped early; its picture is unfinished" in done.comments or len(done.images) == 1
        assert "Ratio" not in done.comments
    else:
        assert "stopped early" not in done.comments


def test_a_run_that_the_host_lets_finish_counts(host, monkeypatch):
    """The WebUI's Interrupt button, as it is by default, stops after the picture at hand."""
    count = during(host, monkeypatch, 2, lambda state: setattr(state, "stopping_generation", True))
    done = compare(host, repeats=1, warm_up=False)
    assert len(count) == 2 and "Ratio " in done.comments and "stopped early" not in done.comments


@pytest.mark.parametrize("side", ["plain", "accelerated"])
def test_a_skipped_picture_of_several_makes_a_run_uncounted(host, monkeypatch, side):
    """The host forgets at the next picture that one was skipped."""
    once = []

    def skip(state):
        if state.sampling_step == 2 and not once:
            once.append(state.skip())

    during(host, monkeypatch, 1 if side == "plain" else 2, skip)
    done = compare(host, repeats=1, warm_up=False, n_iter=2)
    assert once and f"{side}: stopped early" in done.comments and "Ratio" not in done.comments
    assert "not reproducible" not in done.comments


def test_the_account_is_of_the_run_that_made_the_picture(host, monkeypatch):
    during(host, monkeypatch, 3, lambda state: state.interrupt() if state.sampling_step >= 2 else None)
    done = compare(host, repeats=1)
    assert did(done, "merging", 3, (5, 5))


def test_jobs_inside_of_the_plain_job_are_plain(host):
    """ADetailer's, where `accel` is on its list of scripts."""
    results = detail(host, kept=("Accel",))
    compare(host, repeats=1, warm_up=False, accel=ON | {"enabled": False})
    plain, fast = results
    assert "Accel" not in plain.infotexts[0] and did(fast, "merging", 3)
    compare(host, repeats=1, warm_up=False)
    assert [did(inner, "merging", 3) for inner in results[2:]] == [False, True]
    del results[:]
    host.job(accel=ON)
    assert did(results[0], "merging", 3), "afterwards jobs are as they are asked"
