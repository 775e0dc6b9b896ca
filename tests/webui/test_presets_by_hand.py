"""A preset is chosen, or becomes Custom, by what somebody touched: gradio 4 tells of an `input` for values that code sets, too."""

from lib_accel.settings.job import METHOD_KNOBS


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
    assert {"own_save", "own_delete", "refresh"} <= {blocks[at].rsplit("accel_", 1)[-1] for event in asking for at in event["targets"]}
    assert [blocks[event["targets"][0]] for event in asking if event["queue"] is not False] == []
