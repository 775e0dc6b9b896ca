"""The script Prompt-to-Prompt, what needs no host: the grammar of its lines, windows and seeds as typed, planning of grids, legends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from lib_accel.core.fields import SettingError
from lib_accel.images.grid import grid as grid_of
from lib_accel.images.grid import wrapped
from lib_accel.webui.prompt_to_prompt import controls, grid, values
from lib_accel.webui.prompt_to_prompt.lines import parse_line, parse_lines

SOURCE = "a (squirrel:1.2) eats a red  car, Car <lora:car:1>"


@pytest.mark.parametrize(
    ("line", "prompt", "weights"),
    [
        ("a photo; of a lion", "a photo; of a lion", {}),
        ("squirrel -> lion", "a (lion:1.2) eats a red  car, Car <lora:car:1>", {}),
        ("SQUIRREL -> lion*1.5", "a (lion:1.2) eats a red  car, Car <lora:car:1>", {"lion": 1.5}),
        ("red car -> blue bus; car -> cab", "a (squirrel:1.2) eats a blue bus, cab <lora:car:1>", {}),
        ("squirrel → car; red car → squirrel", "a (car:1.2) eats a squirrel, Car <lora:car:1>", {}),
        ("red ->", "a (squirrel:1.2) eats a car, Car <lora:car:1>", {}),
        ("+ pea soup", "a (squirrel:1.2) eats a red  car, Car, pea soup <lora:car:1>", {}),
        ("squirrel*1.8", SOURCE, {"squirrel": 1.8}),
        ("squirrel*-1 red car*.5", SOURCE, {"squirrel": -1.0, "red car": 0.5}),
        ("squirrel*2; squirrel*3", SOURCE, {"squirrel": 6.0}),
        ("a lion; + a hat*1.3; lion*2", "a lion, a hat", {"a hat": 1.3, "lion": 2.0}),
        ("= a -> b; c*2", "a -> b; c*2", {}),
        ("b*2; c*.5 b*3; = a -> b; c*2", "a -> b; c*2", {"b": 6.0, "c": 0.5}),
        ("a lion; b = c", "a lion; b = c", {}),
        ("red car -> blue bus\uff1bcar → cab\uff1bbus*2", "a (squirrel:1.2) eats a blue bus, cab <lora:car:1>", {"bus": 2.0}),
        ("b*2\uff1b= a\uff1bb", "a\uff1bb", {"b": 2.0}),
        ("a lion\uff1bon a rock", "a lion\uff1bon a rock", {}),
    ],
)
def test_what_a_line_means(line, prompt, weights):
    parsed = parse_line(1, line)
    assert parsed.applied(SOURCE) == prompt
    assert parsed.weights == weights


@pytest.mark.parametrize(
    "line", ["-> x", "a -> b -> c", "a*b", "a*", "*2", "a*1e400x", "a cat; b; c*2", "=", "+", "+ *2", "x*nan", "a*b; = c", "b*2; ="]
)
def test_lines_that_cannot_be_are_named_by_number(line):
    with pytest.raises(SettingError, match="Line 3 "):
        parse_lines(f"cat -> dog\n\n{line}")


def test_remarks_and_empty_lines_are_passed_over_and_numbers_stay():
    assert [(line.number, line.text) for line in parse_lines("# what\n\n cat -> dog \n\n+ hat")] == [(3, "cat -> dog"), (5, "+ hat")]


def test_a_word_that_is_not_there_names_those_that_are():
    with pytest.raises(SettingError, match="Line 2: 'dog' is not in the prompt; its words are a, squirrel"):
        parse_line(2, "dog -> cat").applied(SOURCE)


@pytest.mark.parametrize("source", ["a __color__ circle", "a 'star', light_blue and red-haired", "(toy_:1.2) <toy> _hat"])
def test_whatever_is_listed_can_be_swapped(source):
    with pytest.raises(SettingError) as told:
        parse_line(1, "nowhere -> x").applied(source)
    for word in str(told.value).split("its words are ")[1].removesuffix(".").split(", "):
        assert parse_line(1, f"{word} -> new").applied(source).count("new") >= 1
    assert parse_line(1, "color -> red").applied("a __color__ circle") == "a __red__ circle"
    with pytest.raises(SettingError, match="light_blue"):
        parse_line(1, "blue -> red").applied("a light_blue circle")


def test_tags_are_no_words():
    with pytest.raises(SettingError, match="'lora' is not in the prompt"):
        parse_line(1, "lora -> x").applied(SOURCE)


def test_a_line_with_other_weights_means_the_same_edit():
    line = parse_line(1, "squirrel -> lion*1.5; + hat")
    again = parse_line(1, line.weighing({"lion": -2.0}))
    assert again.weights == {"lion": -2.0} and again.applied(SOURCE) == line.applied(SOURCE)
    assert line.weighing({"lion": 1.5}) == line.text


@pytest.mark.parametrize(
    "text",
    ["= a -> b; c*2", "= + a hat", "= # a", "a lion; on a rock", "a lion", "= = a", "b*2; = a; b", "a b*2; + hat", "a lion\uff1bon a rock"],
)
@pytest.mark.parametrize("weight", [-1.0, 0.123456789, 1e-7, 900.0, 1 / 3])
def test_whole_prompts_keep_what_they_are_with_other_weights(text, weight):
    line = parse_line(1, text)
    again = parse_line(1, line.weighing({"a": weight}))
    assert again.applied(SOURCE) == line.applied(SOURCE)
    assert again.weights == {"a": weight}


@given(st.text(max_size=60))
def test_any_text_is_an_edit_or_a_sentence(text):
    try:
        for line in parse_lines(text):
            line.applied("a cat on a mat")
    except SettingError as error:
        assert str(error).startswith("Line ")


def test_windows_as_typed():
    assert values.windows("w", " .8 ") == 0.8
    assert values.windows("w", "0.1 - 0.8") == (0.1, 0.8)
    assert values.windows("w", "0.8; lion 0.4; red car: 0-.6") == {"default_": 0.8, "lion": 0.4, "red car": (0.0, 0.6)}
    for bad in ("", "x", "1.2", "0.8-0.2", "0.5; lion", "nan"):
        with pytest.raises(SettingError, match="w"):
            values.windows("w", bad)


def test_seeds_as_typed():
    assert values.seeds("s", "7, 1-3") == [7, 1, 2, 3]
    assert values.seeds("s", "-1, -1")[0] >= 0
    # Generators take no larger one, and Python reads no number of thousands of digits.
    assert values.seeds("s", "18446744073709551615") == [2**64 - 1]
    for bad in ("a", "3-1", "1-99999", "1.5", "18446744073709551616", "18446744073709551600-18446744073709551620", "9" * 5000):
        with pytest.raises(SettingError, match="s has"):
            values.seeds("s", bad)


def test_numbers_of_requests_keep_their_digits():
    plan = planned(x="Seed", x_values=12345678)
    assert plan.seeds == (12345678,)
    settings = controls.read(({"edits": "cat -> dog", "x_values": 2**63 + 1, "cross": 0.123456789, "self": 1.0, "y_values": 0.00001},))
    assert [settings[name] for name in ("x_values", "cross", "self", "y_values")] == [str(2**63 + 1), "0.123456789", "1", "0.00001"]


def planned(seeds=1, **given):
    settings = controls.read(({"edits": "cat -> dog\ncat -> fox*2", **given},))
    return grid.plan(settings, parse_lines(settings["edits"]), seeds)


def shape(plan):
    return [(len(page.rows), len(page.columns)) for page in plan.pages]


def test_shapes_of_grids():
    assert shape(planned()) == [(1, 2)]
    assert shape(planned(y="Cross window", y_values="0,.4,.8")) == [(3, 2)]
    # What is on no axis has grids of its own.
    assert shape(planned(x="Self window", x_values="0,.4")) == [(1, 2), (1, 2)]
    assert shape(planned(seeds=3)) == [(1, 2)] * 3
    assert shape(planned(seeds=3, y="Seed")) == [(3, 2)]
    assert shape(planned(seeds=3, y="Seed", y_values="5,6")) == [(2, 2)]
    assert shape(planned(x_values="2")) == [(1, 1)]
    assert [page.title for page in planned(seeds=2, x="None").pages] == [
        "cat -> dog, seed 1 of 2",
        "cat -> dog, seed 2 of 2",
        "cat -> fox*2, seed 1 of 2",
        "cat -> fox*2, seed 2 of 2",
    ]


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"x": "Cross window", "x_values": "0,1"}, (1, 3)),
        ({"y": "Cross window", "y_values": "0,1"}, (3, 2)),
        ({}, (2, 2)),
        ({"x": "Seed", "y": "Edit"}, (2, 2)),
    ],
)
def test_where_pictures_without_control_go(axes, expected):
    plan = planned(off=True, **axes)
    assert shape(plan)[0] == expected
    off = [cell for page in plan.pages for row in page.cells for cell in row if not cell.control]
    assert {cell.line for cell in off} == {0, 1} and len(set(off)) == 2


def test_what_is_without_control_is_drawn_once_for_all_thresholds():
    plan = planned(off=True, x="Cross window", x_values="0,1", y="Blend threshold", y_values=".2,.4,.6", blend="cat")
    assert len([cell for cell in plan.cells() if not cell.control]) == 2
    assert len(plan.cells()) == 2 * (2 * 3 + 1)


def test_weights_of_an_axis():
    plan = planned(x="Word weight", x_values="-1, dog*3", edits="cat -> dog; dog*2")
    first, second = plan.pages[0].cells[0]
    assert first.weights_on({"dog": 2.0}) == {"dog": -1.0}
    assert second.weights_on({"dog": 2.0}) == {"dog": 3.0}
    with pytest.raises(SettingError, match="line 1 weighs no word"):
        planned(x="Word weight", x_values="2")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"y": "Edit"}, "must differ"),
        ({"x_values": "3"}, "from 1 to 2"),
        ({"x_values": "9" * 5000}, "from 1 to 2"),
        ({"y": "Cross window"}, "Y values is empty"),
        ({"y": "Cross window", "y_values": "2"}, "it must be a part"),
        ({"y": "Blend threshold", "y_values": "0.3"}, "needs Blend words"),
        ({"y": "Blend threshold", "y_values": "7", "blend": "cat"}, "from 0 to 1"),
        ({"y": "Seed", "y_values": "1-900"}, "more than 1000 pictures"),
        # Said before billions of cells were made.
        (
            {"edits": "cat -> dog\n" * 2000, "y": "Seed", "y_values": "1-1000", "x": "Self window", "x_values": ".1," * 3000},
            "more than 1000 pictures",
        ),
        ({"x": "Prompt"}, "X axis is 'Prompt'"),
        ({"at_once": 1}, "Pictures at once is 1"),
        ({"words": 1}, "'words' is no setting"),
    ],
)
def test_axes_that_cannot_be(given, sentence):
    with pytest.raises(SettingError, match=sentence):
        planned(**given)


def test_batches_share_a_seed_and_a_threshold_and_fit():
    plan = planned(seeds=2, y="Blend threshold", y_values=".2,.4", blend="cat", edits="\n".join(f"cat -> dog {i}" for i in range(7)))
    batches = plan.batches(4)
    assert sum(map(len, batches)) == len(plan.cells()) == 2 * 2 * 7
    for batch in batches:
        assert len(batch) <= 3 and len({(cell.seed, cell.threshold) for cell in batch}) == 1


def test_cells_are_drawn_once():
    assert len(planned(x_values="1, 1, 2").cells()) == 2


def test_settings_come_back_from_png_info():
    sent = {"edits": "cat -> dog\nred*2", "cross": "0.8; dog 0.4", "off": True, "threshold": 0.45, "at_once": 8, "heat": "cat"}
    settings = controls.read((sent,))
    params = {key: str(value) for key, value in controls.to_infotext(settings, "a cat", True).items()}
    assert {name: controls.from_infotext(name, params) for name in controls.CONTROLS} == settings
    assert controls.from_infotext("edits", {"Steps": "20"}) is None
    # What PNG info does not tell has its default.
    assert controls.from_infotext("off", {controls.SOURCE_KEY: "a cat"}) is False
    assert controls.from_infotext("at_once", {controls.SOURCE_KEY: "a cat", "P2P pictures at once": "many"}) is None


def test_keys_are_such_as_the_hosts_parser_takes():
    import re

    keys = [control.key for control in controls.CONTROLS.values()]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"\w[\w \-/]+", key) for key in keys)


def test_legends_are_wrapped_and_missing_pictures_leave_a_place():
    face = ImageFont.load_default()
    assert all(face.getlength(line) <= 60 for line in wrapped("a very long legend withawordthatislongerthanthecolumn", face, 60))
    picture = Image.new("RGB", (64, 64), (200, 0, 0))
    sheet = grid_of([[picture, None]], ["source", "a " * 60], ["row"], "title", lambda r, c: "1 s", font=lambda size: face)
    assert (200, 0, 0) in {color for _, color in sheet.getcolors(100000)}
    assert (225, 225, 225) in {color for _, color in sheet.getcolors(100000)}
