"""A preset is chosen, or becomes Custom, by what somebody touched: gradio 4 tells of an `input` for values that code sets, too."""

import html
import json
import re

from lib_accel.settings.job import METHOD_KNOBS, NOT_IN_PRESETS
from lib_accel.settings.schema import KNOBS


def events_on(host, elem_id, kind):
    ids = {block._id for block in host.demo.blocks.values() if getattr(block, "elem_id", None) == elem_id}
    return [event for event in host.demo.dependencies if event["trigger"] == kind and ids & set(event["targets"])]


def test_a_knob_makes_it_custom_when_it_was_touched(host):
    for name in METHOD_KNOBS:
        elem_id = f"script_txt2img_accel_{name.replace('.', '_')}"
        [event] = events_on(host, elem_id, "input")
        assert f"isTouched('{elem_id}')" in event["js"] and not event["backend_fn"]


def test_a_preset_that_nobody_chose_fills_nothing(host):
    from lib_accel.webui.accordion import filling

    [event] = events_on(host, "script_txt2img_accel_preset", "input")
    assert "isTouched('script_txt2img_accel_preset')" in event["js"] and "null" in event["js"]
    assert all("value" not in update for update in filling.fill(None))
    assert any("value" in update for update in filling.fill("Fast"))


def test_nothing_of_ours_waits_in_the_queue(host):
    # The host's queue drops what a slow browser does not take within a second, and the page then waits for good.
    blocks = {block._id: str(getattr(block, "elem_id", None)) for block in host.demo.blocks.values()}
    named = ("_accel", "_prompttoprompt_")
    ours = [e for e in host.demo.dependencies if any(name in blocks[at] for name in named for at in e["targets"])]
    asking = [event for event in ours if event["backend_fn"]]
    assert {"own_save", "own_delete", "refresh", "refill"} <= {
        blocks[at].rsplit("accel_", 1)[-1] for event in asking for at in event["targets"]
    }
    assert [blocks[event["targets"][0]] for event in asking if event["queue"] is not False] == []


def test_a_model_of_another_family_fills_the_presets_knobs_anew(start):
    """The page tells the browser the family, and the browser asks for its values; Custom's and pinned numbers of tokens stay."""
    host = start()
    from lib_accel.webui.accordion import filling, strip

    filled = [name for name in KNOBS if name not in NOT_IN_PRESETS]

    def values(preset):
        return {name: update["value"] for name, update in zip(filled, filling.fill_anew(preset)) if "value" in update}

    def family():
        told = strip.show("", *[control.value for control in host.script().controls])[1]
        return json.loads(html.unescape(re.search('data-told="([^"]*)"', told)[1]))["family"]

    before = values("Draft"), family()
    host.sd_models.switch_to(host.model(kind="sdxl", context_dim=2048))
    assert (before[1], family()) == ("sd1", "sdxl")
    assert before[0]["downsampling.deeper_factor"] == 2 and values("Draft")["downsampling.deeper_factor"] == 1
    assert values("Custom") == {} and not any(name.startswith("least.") for name in values("Draft"))
