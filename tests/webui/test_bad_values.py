"""Bad values through the API and through PNG info: the extension is off for that job, with a sentence, and the picture is the plain one."""

from harness import same

from lib_accel.settings.schema import KNOBS
from lib_accel.webui.accordion.refused import MARK

NAN, INF = float("nan"), float("inf")
# A job as small as they come: what is looked at is whether it is the plain one.
SMALL = {"steps": 2, "width": 64, "height": 64}
BAD = [
    {"enabled": "maybe"},
    {"enabled": 2},
    {"enabled": []},
    {"enabled": True, "preset": "turbo"},
    {"enabled": True, "preset": ""},
    {"enabled": True, "preset": None},
    {"enabled": True, "preset": 3},
    {"enabled": True, "preset": "x" * 5000},
    {"enabled": True, "preset": "<img src=x onerror=alert(1)>"},
    {"enabled": True, "preset": ["Fast"]},
    {"enabled": True, "unknown": 1},
    {"enabled": True, "agents": 1, "agents.": 2},
    {"enabled": True, "agents.nothing": 1},
    {"enabled": True, "__class__": 1},
    {"enabled": True, "<b>": 1},
    {"enabled": True, "n" * 3000: 1},
    {"enabled": True, "agents": {"ratio": {"deep": 1}}},
    {"enabled": True, "first_pass": "perhaps"},
    {"enabled": True, "auto": 0.5},
    {"enabled": True, "agents.on": "ja"},
    {"enabled": True, "agents.ratio": "banana"},
    {"enabled": True, "agents.ratio": -0.1},
    {"enabled": True, "agents.ratio": 1.1},
    {"enabled": True, "agents.ratio": NAN},
    {"enabled": True, "agents.ratio": INF},
    {"enabled": True, "agents.ratio": "nan"},
    {"enabled": True, "agents.ratio": None},
    {"enabled": True, "agents.ratio": True},
    {"enabled": True, "agents.ratio": [0.5]},
    {"enabled": True, "agents.ratio": {}},
    {"enabled": True, "agents.ratio": "1e400"},
    {"enabled": True, "agents.ratio": "9" * 3000},
    {"enabled": True, "agents.sx": 0},
    {"enabled": True, "agents.sx": 2.5},
    {"enabled": True, "agents.sx": 65},
    {"enabled": True, "agents.sx": 10**400},
    {"enabled": True, "agents.max_downsample": 3},
    {"enabled": True, "agents.max_downsample": "two"},
    {"enabled": True, "agents.k_scale2": 11},
    {"enabled": True, "agents.k_shortcut": -1},
    {"enabled": True, "agents.attn_precision": "fp64"},
    {"enabled": True, "agents.plan": "row"},
    {"enabled": True, "agents.plan_every": 0},
    {"enabled": True, "agents.start": 0.9, "agents.end": 0.1},
    {"enabled": True, "agents.start": 0.4, "agents.end": 0.4},
    {"enabled": True, "merging.end": 2},
    {"enabled": True, "merging.use_rand": "\x00"},
    {"enabled": True, "downsampling.factor": 9},
    {"enabled": True, "downsampling.factor": "²"},
    {"enabled": True, "tgate.gate": 0},
    {"enabled": True, "tgate.gate": -1},
    {"enabled": True, "tgate.gate": 1.5},
    {"enabled": True, "tgate.gate": NAN},
    {"enabled": True, "tgate.gate": None},
    {"enabled": True, "tgate.gate_step": 0},
    {"enabled": True, "tgate.fi_interval": 0},
    {"enabled": True, "tgate.cache": "both"},
    {"enabled": True, "tgate.after_gate": "image"},
    {"enabled": True, "tgate.drop_guidance": 2},
    {"enabled": True, "guidance.when": "never"},
    {"enabled": True, "guidance.threshold": 1.01},
    {"enabled": True, "guidance.after": 0},
    {"enabled": True, "guidance.sigma_low": -0.1},
    {"enabled": True, "guidance.when": "outside", "guidance.sigma_low": 6},
    {"enabled": True, "guidance.every": 1.5},
    {"enabled": True, "drop_at_one": "half"},
    {"enabled": True, "hires.gate": 0},
    {"enabled": True, "hires.profile": "never"},
    {"enabled": True, "hires.agents": True, "agents.on": False, "agents.start": 0.9, "agents.end": 0.1},
    {"enabled": True, "hires.merging_ratio": "0,5"},
    {"enabled": True, "least.agents": -1},
    {"enabled": True, "least.merging": "many"},
]


def test_there_are_fifty():
    assert len(BAD) >= 50


def test_bad_values_through_the_api(start):
    plain = start(extension=False).job(**SMALL)
    host = start()
    for bad in BAD:
        done = host.job(accel=bad, **SMALL)
        assert same(done, plain), bad
        assert "Accel is off for this job: " in done.comments, bad
        sentence = done.comments.split("Accel is off for this job: ")[1]
        assert len(sentence) < 700 and "\n" not in sentence.strip(), bad
        assert "Accel report" in done.infotexts[0] and "Accel:" not in done.infotexts[0]
        assert not host.errors.reports, bad


def test_bad_values_by_position(start):
    plain = start(extension=False).job(**SMALL)
    host = start()
    for place, name in enumerate(KNOBS):
        args = [True, "Custom"]
        values = list(host.args("txt2img"))[host.script().args_from : host.script().args_to]
        args += values[2:]
        args[place] = {"not": "this"} if place else ["nor this"]
        done = host.job(accel=args, **SMALL)
        assert same(done, plain), name
        # As the page calls it, since a list is what the page sends.
        assert f"{KNOBS[name].label} is " in done.comments


def test_a_number_that_was_typed_wrong_reaches_the_job(host):
    """gradio refuses the whole job for a number below its field's bound, and does not say which number it was."""
    from lib_accel.webui.accordion import strip

    controls = host.script().controls
    for place, (name, knob) in enumerate(KNOBS.items()):
        if knob.kind not in ("number", "integer"):
            continue
        typed = [True, "Custom", *(control.value for control in controls[2:])]
        typed[place] = -50
        args = [control.preprocess(value) for control, value in zip(controls, typed)]
        sentence = f"{knob.label} is {args[place]}; it must be {knob.allowed()}."
        assert sentence in strip.show("{}", *args)[2].replace("&#39;", "'"), name
    assert f"Accel is off for this job: {sentence}" in host.job(accel=args, **SMALL).comments


def test_the_page_reads_labels_and_requests_names(host):
    from lib_accel.webui.accordion import strip

    bad = {"preset": "Custom", "enabled": True, "merging.on": True, "merging.start": 0.9, "merging.end": 0.5}
    args = [bad.get(name, control.value) for name, control in zip(KNOBS, host.script().controls)]
    sentence = "Merging: start is 0.9 and Merging: end is 0.5; the start must be before the end."
    assert sentence in strip.show("{}", *args)[2]
    assert f"Accel is off for this job: {sentence}" in host.job(accel=args, **SMALL).comments
    assert "merging.start is 0.9 and merging.end is 0.5" in host.job(accel=bad, **SMALL).comments


def test_bad_values_in_png_info(start):
    plain = start(extension=False).job(**SMALL)
    host = start()
    from modules.infotext_utils import pasted

    lines = [f"Accel: Fast, {KNOBS[n].infotext}: {v}" for n in KNOBS for v in ("banana", "-7", "1e999") if n not in ("enabled", "preset")]
    lines = [line for line in lines if "least" not in line or "-7" in line or "banana" in line]
    assert len(lines) > 100
    for line in lines[::3]:
        values = pasted(host.runners["txt2img"].infotext_fields, f"a red cat\nSteps: 5, Sampler: Euler, Seed: 1, {line}")
        script = host.script()
        args = [values.get(control, control.value) for control in script.controls]
        assert args[0] is True and args[1].startswith(MARK), line
        done = host.job(accel=args, **SMALL)
        assert same(done, plain)
        assert "Accel is off for this job: PNG info: " in done.comments


def test_paste_restores_on_and_off(host):
    from modules.infotext_utils import pasted

    on = {"preset": "Custom", "auto": False, "agents.on": True, "agents.ratio": 0.3, "agents.max_downsample": 2, "merging.use_rand": False}
    done = host.job(accel=on)
    fields = host.runners["txt2img"].infotext_fields
    controls = host.script().controls
    values = pasted(fields, done.infotexts[0])
    again = host.job(accel=[values[control] for control in controls])
    assert same(again, done)
    off = pasted(fields, host.job().infotexts[0])
    assert off[controls[0]] is False
    assert not set(controls[1:]) & set(off)


def test_an_account_pasted_as_a_prompt_means_nothing(host):
    done = host.job(prompt="Accel: Fast, Accel report: <img src=x onerror=alert(1)>")
    assert done.comments == ""
