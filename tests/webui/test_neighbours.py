"""What other scripts and the host's own features do in jobs of ours: prompts, samplers, inner jobs, arguments, errors."""

from types import SimpleNamespace

import pytest
from acting import DONE, ON, blocks, did, without_guidance
from harness import same


def test_as_many_parts_of_a_prompt_as_each_picture_has(host):
    done = host.job(accel=ON | {"merging.plan_every": 3}, prompt=["a AND b AND c", "d"], batch_size=2)
    assert did(done, *DONE) and "another extension" not in done.comments


@pytest.mark.parametrize(("sampler", "calls"), [("Euler a", 10), ("LCM", 10), ("PLMS", 10), ("UniPC", 10), ("DDIM", 9), ("Heun", 19)])
def test_stages_by_sampler(start, sampler, calls):
    fields = {"steps": 10, "sampler_name": sampler}
    without = start(extension=False).job(**fields)
    host = start()
    half = host.job(accel=ON | {"merging.end": 0.5}, **fields)
    assert f"for {5 if calls < 19 else 10} of {calls} steps" in half.comments
    assert same(host.job(**fields), without)


def test_inner_jobs_end_the_hosts_token_merging_for_later_batches(start):
    """Then ours acts in them, and the account tells both."""
    pytest.importorskip("tomesd")
    host = start()

    def inner(p):
        q = host.p("img2img", seed=9)
        host.processing.process_images(q)

    neighbour = host.module("Neighbour").Neighbour
    done = []
    neighbour.inner = staticmethod(lambda p: done.append(1) or (len(done) == 1 and inner(p)))
    account = host.job(accel=ON, n_iter=2, token_merging_ratio=0.5).comments
    assert "the WebUI's own token merging is on" in account
    assert not host.errors.reports


def test_our_values_set_by_name_from_another_script(host):
    p = host.p(accel=ON)
    runner = host.runners["txt2img"]
    ratio = host.script().elem_id("merging_ratio")
    p.script_args = runner.set_named_arg(p.script_args, "accel", "script_txt2img_accel_enabled-checkbox", True)
    p.script_args = runner.set_named_arg(p.script_args, "accel", ratio, 0.35)
    host.shared.state.begin("job")
    done = host.processing.process_images(p)
    assert "Accel merging ratio: 0.35" in done.infotexts[0]


def test_a_host_without_the_plot(host):
    from lib_accel.webui import axes

    host.scripts.scripts_data[:] = [data for data in host.scripts.scripts_data if not data.path.endswith("xyz_grid.py")]
    axes.add()


def test_errors_in_a_models_own_forward_are_the_hosts(host):
    models_own = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    block = blocks(host)[0]
    handle = block.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(models_own))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        host.job(accel=ON)
    handle.remove()
    from lib_accel.webui.jobs.session import SESSION

    assert "ended by an error" in SESSION.last["line"]


OF_ROWS = {"tgate.on": True, "tgate.gate": 0.6, "guidance.on": True, "guidance.when": "after", "guidance.after": 0.4}


def test_the_hosts_token_merging_keeps_nothing_but_tokens_from_methods(start):
    pytest.importorskip("tomesd")
    fields = {"token_merging_ratio": 0.5, "cfg_scale": 7}
    without = start(extension=False).job(**fields)
    host = start()
    done = host.job(accel=ON | OF_ROWS, **fields)
    assert "methods on tokens off: the WebUI's own token merging is on" in done.comments and "TokenMerging" not in done.comments
    assert did(done, "cross-attention served", 7, (2, 5), method="TGate")
    assert without_guidance(done) == (3, 5)
    assert not same(done, without)
    assert same(host.job(**fields), without)


def test_hypertile_keeps_nothing_but_self_attention_from_methods(host):
    for block in blocks(host):
        setattr(block.attn1, "__webui_hypertile_params", SimpleNamespace(enabled=True))
    done = host.job(accel=ON | OF_ROWS, cfg_scale=7)
    assert "TokenMerging: 0 of 7 layers [hypertile is active there (3 layers)]" in done.comments
    assert "on 7 of 7 layers for 2 of 5 steps" in done.comments
