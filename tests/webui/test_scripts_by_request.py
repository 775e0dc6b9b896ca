"""Our scripts over the API: what PNG info in a request draws, how arguments are sent, and how a refusal reaches the client."""

import json

import numpy as np
import pytest
from client import post
from comparing import ON, compare
from editing import SOURCE, SWAP, close, draw, parsed
from harness import pixels

SCRIPT = {"prompt": SOURCE, "steps": 2, "script_name": "prompt-to-prompt"}


@pytest.mark.parametrize("more", [{}, {"script_name": "prompt-to-prompt"}], ids=["alone", "named"])
@pytest.mark.parametrize("place", [0, 2], ids=["grid", "picture"])
def test_png_info_of_an_edit_draws_the_edit(host, place, more):
    done = draw(host, {"edits": "cat -> dog*1.5\nred -> blue", "cross": "0.5", "blend": "red"}, accel=ON, negative_prompt="blue")
    status, again = post(host, infotext=done.infotexts[place], **more)
    assert status == 200 and len(again.images) == (len(done.images) if place == 0 else 3)
    shown = again.images[2:] if place == 0 else again.images[2:3]
    assert all(close(*pair) for pair in zip(shown, done.images[2:], strict=place == 0))
    assert "Accel merging ratio: 0.6" in again.infotexts[2]


@pytest.mark.parametrize("type_of_updates", ["generic_update", "update"], ids=["gradio 3", "gradio 4"])
def test_png_info_of_a_preset_draws_by_that_preset(host, monkeypatch, type_of_updates):
    """Hosts look into updates of gradio 3 alone."""
    import gradio as gr

    done = host.job(accel={"enabled": True, "preset": "Fast"}, prompt="a red cat", steps=12)
    monkeypatch.setattr(gr, "update", lambda **given: {**given, "__type__": type_of_updates})
    status, again = post(host, infotext=done.infotexts[0])
    assert status == 200 and "Accel: Fast" in again.infotexts[0] and "off for this job" not in again.infotexts[0]
    assert all(np.array_equal(*pair) for pair in zip(pixels(again), pixels(done), strict=True))
    status, refused = post(host, infotext=done.infotexts[0].replace("Accel merging ratio: 0.25", "Accel merging ratio: 7"))
    assert "Accel is off for this job - PNG info - merging.ratio is '7'" in refused.infotexts[0]


def test_png_info_with_styles_draws_what_was_drawn(host):
    host.shared.prompt_styles.styles = {"oil": ("oil", "photo")}
    done = draw(host, SWAP, styles=["oil"], negative_prompt="blue")
    status, again = post(host, infotext=done.infotexts[2])
    assert status == 200 and all(close(*pair) for pair in zip(again.images[1:], done.images[1:], strict=True))


def test_what_a_request_says_itself_counts(host):
    done = draw(host, SWAP)
    again = post(host, infotext=done.infotexts[2], script_name="prompt-to-prompt", script_args=[{"edits": "cat -> bird"}])[1]
    assert "P2P edits: cat -> bird" in again.infotexts[2]
    assert len(post(host, infotext=done.infotexts[1])[1].images) == 1, "the source is a plain picture"


def test_png_info_of_a_comparison_compares(host):
    done = compare(host, repeats=1, warm_up=False, gain=8)
    status, again = post(host, infotext=done.infotexts[0])
    assert status == 200 and "Accel A/B amplify the difference: 8" in again.infotexts[0]
    assert all(np.array_equal(*pair) for pair in zip(pixels(again)[1:], pixels(done)[1:], strict=True))


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"script_args": [{"edits": "moon -> dog"}]}, "Line 1: 'moon' is not in the prompt"),
        ({"script_args": [{}]}, "has no edit"),
        ({"script_args": [{"word": 1}]}, "'word' is no setting"),
        ({"script_args": ["cat -> dog"]}, 'such as [{"edits": "cat -> dog"'),
        ({"script_args": ["cat -> dog", "refine", "0.8"]}, 'such as [{"edits": "cat -> dog"'),
        ({"script_args": []}, 'such as [{"edits": "cat -> dog"'),
        ({}, 'such as [{"edits": "cat -> dog"'),
        ({"script_name": "accel a/b", "script_args": [3]}, 'such as [{"repeats": 3'),
        ({"script_name": "accel a/b", "script_args": [{"times": 3}]}, "'times' is no setting; there are repeats"),
    ],
)
def test_a_refusal_reaches_the_client(host, sent, sentence):
    status, detail = post(host, **SCRIPT | sent)
    assert status == 422 and sentence in detail


@pytest.mark.parametrize("sent", [{}, {"alwayson_scripts": {"accel": {"args": [ON]}}}], ids=["alone", "with the accordion's"])
@pytest.mark.parametrize(("name", "given"), [("prompt-to-prompt", {"edits": "cat -> dog"}), ("accel a/b", {"repeats": 1})])
def test_the_accordion_may_stand_below_the_scripts(host, monkeypatch, name, given, sent):
    """The host puts the one object in the place of all values of the script, so those of the accordion came from other places."""
    usual = host.runners["img2img"]
    of_page = host.scripts.ScriptRunner.setup_ui
    monkeypatch.setattr(host.scripts.ScriptRunner, "setup_ui", lambda runner: of_page(runner, (None, "accordions")))
    assert usual.script("accel").args_from < usual.script(name).args_from
    assert host.script(title="accel").args_from > host.script(title=name).args_from
    below, above = (post(host, tab, **SCRIPT | {"script_name": name, "script_args": [given]}, **sent) for tab in ("txt2img", "img2img"))
    assert below[0] == above[0] == 200
    told = [[key for key in parsed(done.infotexts[-1]) if key.startswith("Accel")] for _, done in (below, above)]
    assert told[0] == told[1] and "off for this job" not in below[1].comments
    assert ("Accel merging ratio: 0.6" in below[1].infotexts[-1]) is bool(sent)


def test_failures_do_too(host, monkeypatch):
    def fail(p):
        raise ValueError("no memory")

    monkeypatch.setattr(host.processing, "process_images", fail)
    status, detail = post(host, prompt="a cat", script_name="accel a/b", script_args=[{"repeats": 1}])
    assert status == 500 and "ValueError: no memory" in detail


def test_the_schema_shows_the_form_that_works(host):
    from lib_accel.webui import api

    shown = api.schema()["scripts"]
    for name, script in shown.items():
        named = {setting["name"]: setting["default"] for setting in script["settings"]}
        assert set(script["script_args"][0]) <= set(named)
        json.dumps(script)
        assert post(host, prompt=SOURCE, steps=2, script_name=name, script_args=script["script_args"])[0] == 200
        assert post(host, prompt=SOURCE, steps=2, script_name=name, script_args=[named | script["script_args"][0]])[0] == 200
