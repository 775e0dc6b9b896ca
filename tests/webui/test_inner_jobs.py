"""Jobs inside jobs as ADetailer runs them: for each finished picture, on a runner of its own, with calls for other scripts around."""

import copy

import pytest
from harness import same

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.4}
DONE = "merging on 3 of 7 layers for 5 of 5 steps"


def detail(host, kept=()):
    """Inner jobs' results, as they come. kept: titles of the scripts that take part in them."""
    results = []

    def inner(p):
        if getattr(p, "is_inner", False):
            return
        p.scripts.postprocess(copy.copy(p), host.processing.Processed(p, [], []))
        q = host.p("img2img", seed=9)
        q.is_inner = True
        q.extra_generation_params = dict(p.extra_generation_params)
        q.scripts = copy.copy(p.scripts)
        q.scripts.alwayson_scripts = [s for s in p.scripts.alwayson_scripts if s.title() in kept]
        q.script_args = copy.copy(p.script_args)
        results.append(host.processing.process_images(q))
        again = copy.copy(p)
        p.scripts.before_process(again)
        p.scripts.process(again)

    host.module("Neighbour").Neighbour.inner = staticmethod(inner)
    return results


@pytest.mark.parametrize("count", [1, 2])
def test_the_outer_jobs_account_stays_in_its_png_info(start, count):
    alone = start().job(accel=ON, n_iter=count)
    without = start(extension=False).job("img2img", seed=9)
    host = start()
    results = detail(host)
    done = host.job(accel=ON, n_iter=count)
    assert same(done, alone) and all(same(result, without) for result in results) and len(results) == count
    accounts = [text.split("Accel report: ") for text in done.infotexts]
    assert all("Accel merging ratio: 0.4" in told and "merging on 3 of 7 layers" in account for told, account in accounts)
    assert done.comments.count("Accel Custom: ") == 1
    assert "Accel" not in host.job().infotexts[0]


def test_inner_jobs_that_take_our_script_along_run_by_its_settings(start):
    alone = start().job("img2img", seed=9, accel=ON)
    host = start()
    results = detail(host, kept=("Accel",))
    done = host.job(accel=ON)
    assert same(results[0], alone)
    assert DONE in done.infotexts[0].split("Accel report: ")[1] and DONE in done.comments
    from lib_accel.webui.session import SESSION

    # The account that the routes tell is the outer job's.
    assert SESSION.last["line"] == done.comments.strip()


def test_a_copy_of_a_finished_job_begins_anew(host):
    p = host.p(accel=ON)
    host.shared.state.begin("job")
    host.processing.process_images(p)
    again = copy.copy(p)
    again.script_args = host.p().script_args
    done = host.processing.process_images(again)
    assert "Accel" not in done.infotexts[0]
