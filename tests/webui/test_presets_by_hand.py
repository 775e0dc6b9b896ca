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
