"""What the script Prompt-to-Prompt refuses, with a sentence, before anything is drawn; how it takes its arguments."""

import pytest
from editing import SWAP, draw

from lib_accel.core.fields import SettingError

REFUSED = [
    ({}, {}, "has no edit; write one per line"),
    ({"edits": "# only a remark"}, {}, "has no edit"),
    ({"edits": "dog -> cat"}, {}, "Line 1: 'dog' is not in the prompt; its words are a, red, cat"),
    ({"edits": "cat -> dog\nred*5000"}, {}, "Line 2: weight of 'red' is 5000.0; it must be a number from -1000 to 1000"),
    ({"edits": "cat -> dog\ngreen*2"}, {}, "Line 2: .*the words a, red, cat"),
    ({"edits": "cat -> dog\na red cat"}, {}, "Line 2 is 'a red cat'; it changes nothing"),
    ({"edits": "a * b"}, {}, "Line 1 is 'a . b'; a weight is"),
    ({"edits": "+ hat", "kind": "replace"}, {}, "Line 1: edit is 'replace'"),
    ({"edits": "cat -> dog AND bird"}, {}, "Line 1: .*AND joins"),
    (SWAP, {"prompt": "a cat AND a dog"}, "AND joins"),
    (SWAP, {"prompt": "a [red:blue:0.5] cat"}, "change from step to step"),
    (SWAP, {"prompt": "a [red|blue] cat"}, "change from step to step"),
    ({"edits": "a dog <lora:y:1>"}, {"prompt": "a cat <lora:x:1>"}, "Line 1 has the tags <lora:y:1>, the source <lora:x:1>"),
    (SWAP, {"prompt": ["a cat", "a red cat"]}, "prompt is a list of 2"),
    (SWAP, {"enable_hr": True, "hr_prompt": "another"}, "needs an empty Hires prompt"),
    ({**SWAP, "blend": "bird"}, {}, "the words a, red, cat"),
    ({**SWAP, "blend": "cat : bird"}, {}, "Blend words has 'bird'.* the words a, red, dog"),
    ({**SWAP, "blend": "a : b : c"}, {}, "one colon at most"),
    ({**SWAP, "subtract": "sky", "blend": "cat"}, {}, "the words a, red, cat"),
    ({**SWAP, "heat": "sky"}, {}, "the words a, red, cat"),
    ({**SWAP, "cross": "2"}, {}, "Cross window has '2'"),
    ({**SWAP, "cross": "0.8; lion 0.4"}, {}, "Cross window has 'lion'"),
    ({**SWAP, "self": "0.8-0.2"}, {}, "a part of the steps from 0 to 1"),
    ({**SWAP, "self_layers": "left"}, {}, "Self-attention layers is 'left'"),
    ({**SWAP, "threshold": float("nan")}, {}, "Blend threshold is nan"),
    ({**SWAP, "x": "Colour"}, {}, "X axis is 'Colour'"),
    (SWAP, {"token_merging_ratio": 0.5}, "own token merging is on"),
    (SWAP, {"override_settings": {"token_merging_ratio": 0.5}}, "own token merging is on"),
    (SWAP, {"firstpass_image": "a picture of the gallery"}, "cannot upscale one from the gallery"),
]


@pytest.mark.parametrize(("settings", "fields", "sentence"), REFUSED)
def test_what_cannot_be_drawn_is_refused_before_anything_is(host, jobs, settings, fields, sentence):

    if "token_merging_ratio" in str(fields):
        host.processing.StableDiffusionProcessing.get_token_merging_ratio = lambda self, for_hr=False: (
            self.token_merging_ratio or host.shared.opts.token_merging_ratio
        )
    with pytest.raises(SettingError, match=sentence):
        draw(host, settings, **fields)
    assert jobs == []


def test_models_without_blocks_and_other_unets_are_refused(host, jobs):
    host.sd_models.switch_to(host.model(kind="sd3"))
    with pytest.raises(SettingError, match="no transformer blocks"):
        draw(host, SWAP)
    host.sd_models.switch_to(host.model())
    host.sd_unet.current_unet = object()
    with pytest.raises(SettingError, match="the option sd_unet"):
        draw(host, SWAP)
    host.sd_unet.current_unet = None
    assert jobs == []


def test_arguments_by_place_by_name_and_missing(host, jobs):
    draw(host, ["cat -> dog"], steps=2)
    draw(host, ["cat -> dog", "refine", 0.5, None], steps=2)
    assert len(jobs) == 2
    with pytest.raises(SettingError, match="'word' is no setting"):
        draw(host, {"word": 1})
