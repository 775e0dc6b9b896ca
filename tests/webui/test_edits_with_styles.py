"""Styles of a job of Prompt-to-Prompt: what was drawn is told in full, and is drawn again whatever the host does with styles."""

import numpy as np
import pytest
from editing import close, draw, parsed
from harness import pixels

STYLES = {
    "oil": ("oil", "photo"),
    "film": ("film of {prompt} , at night", "cartoon, {prompt}"),
    "twice": ("{prompt} and {prompt}", ""),
    "cats": ("cat", ""),
}
# As long as the source, so that no chunk is padded; by the blend, the cat and the dog may change.
EDITS = ["cat -> dog", "cat -> dog*1.5; red -> blue", "a blue dog", "dog*2; = a red dog", "red*2"]


@pytest.fixture
def styled(host):
    host.shared.prompt_styles.styles = dict(STYLES)
    return host


def pasted(host, text):
    """The job that a paste of ``text`` starts: (prompts and styles as the page has them, the script's arguments)."""
    from modules.infotext_utils import pasted

    params = parsed(text)
    host.callbacks.dispatch("infotext_pasted", text, params)
    values = pasted(host.runners["txt2img"].infotext_fields, text)
    script = host.script("txt2img", "Prompt-to-Prompt")
    fields = {"prompt": params["Prompt"], "negative_prompt": params["Negative prompt"], "styles": params.get("Styles array", [])}
    return fields, [values.get(control, control.value) for control in script.controls]


def prompts_of(p, fields, args):
    """What a job would draw: the source and its edits, with styles."""
    from lib_accel.webui.prompt_to_prompt import checking

    vars(p).update(fields)
    edits, _ = checking.prepared(p, tuple(args))
    return edits.full_source, *edits.full_prompts


@pytest.mark.parametrize("styles", [[], ["oil"], ["film"], ["twice"], ["oil", "film"], ["cats"]], ids=str)
def test_every_picture_pastes_back(styled, styles):
    done = draw(styled, {"edits": "\n".join(EDITS), "blend": "cat", "at_once": 8}, negative_prompt="blue", styles=styles, steps=2)
    source, *prompts = [text.split("\n")[0] for text in done.infotexts[1:]]
    p = styled.p()
    for option in ("Ignore", "Apply if any", "Apply", "Discard"):
        styled.shared.opts.data["infotext_styles"] = option
        for place, prompt in enumerate(prompts):
            assert prompts_of(p, *pasted(styled, done.infotexts[2 + place])) == (source, prompt)
        fields, args = pasted(styled, done.infotexts[0])
        assert prompts_of(p, fields, args) == (source, *prompts)
        whole = styled.shared.prompt_styles.apply_negative_styles_to_prompt(fields["negative_prompt"], fields["styles"])
        assert whole == styled.shared.prompt_styles.apply_negative_styles_to_prompt("blue", styles)
    # The sheet shows the lines as they are told.
    again = draw(styled, args, steps=2, **fields)
    assert all(np.array_equal(*pair) for pair in zip(pixels(again)[1:], pixels(done)[1:], strict=True))
    place = len("".join(styles)) % len(EDITS)
    fields, args = pasted(styled, done.infotexts[2 + place])
    assert close(draw(styled, args, steps=2, **fields).images[2], done.images[2 + place])


def test_a_style_that_is_missing_later_changes_nothing(styled):
    done = draw(styled, {"edits": "cat -> dog"}, styles=["oil", "cats"], negative_prompt="blue", steps=2)
    styled.shared.prompt_styles.styles = {}
    fields, args = pasted(styled, done.infotexts[2])
    assert (fields["prompt"], fields["negative_prompt"]) == ("a red cat, oil, cat", "blue, photo")
    assert all(close(*pair) for pair in zip(pixels(draw(styled, args, steps=2, **fields))[1:], pixels(done)[1:]))


def test_the_preview_knows_the_words_of_styles(styled):
    import json

    from lib_accel.webui.prompt_to_prompt import chips
    from lib_accel.webui.prompt_to_prompt.controls import CONTROLS

    values = {name: control.default for name, control in CONTROLS.items()} | {"edits": "film*2"}

    def shown(*styles):
        return chips.show(json.dumps({"prompt": "a red cat", "seeds": 1, "styles": styles}), *values.values())

    assert "word is" in shown() and "&times;2" in shown("film") and "1 <span>edited picture" in shown("film")
