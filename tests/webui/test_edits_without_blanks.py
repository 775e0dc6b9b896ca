"""Prompts in Chinese: an edit names a part of a word that has no blanks, in the box, in chips, weights and heat maps."""

import pytest
from client import post
from editing import draw, told

SOURCE = "一只红色的猫坐在垫子上"


def test_an_edit_of_a_part_of_a_word(host):
    done = draw(host, {"edits": "猫 -> 狗\n红色的猫*2", "blend": "猫", "heat": "猫, 垫子"}, prompt=SOURCE, steps=2)
    assert told(done.infotexts[2])["P2P edits"] == "猫 -> 狗" and done.infotexts[2].startswith("一只红色的狗坐在垫子上")
    assert "cross-attention on 7" in done.comments
    assert [told(text).get("P2P heat map") for text in done.infotexts].count("垫子") == 3


def test_what_cannot_be_told_apart_is_refused_with_the_places(host):
    status, detail = post(host, prompt="垫子上和孩子", script_name="prompt-to-prompt", script_args=[{"edits": "子*2"}])
    assert status == 422 and "垫[子]上和" in detail and "孩[子]" in detail


@pytest.mark.parametrize("loaded", [False, True])
def test_chips_show_where_it_was_found(host, loaded):
    from lib_accel.webui.prompt_to_prompt import chips

    if loaded:
        assert host.shared.sd_model is not None
    html = chips.show(SOURCE, "猫 -> 狗; 红色*2", "auto").replace("&#8288;", "")
    assert "<s>猫</s> → 狗" in html and html.count("&times;2") == 2 and "accel-wrong" not in html
