"""Every preset with the seven samplers that people use most, in every kind of job, in a real WebUI, through its API: what is told, PNG
info, and that off is exact. Pictures of version 0.1.0, too. Skipped without A1111_ROOT; with A1111_SDXL for that kind of checkpoint, too.
`-k "sd1 and hires and UniPC"` chooses."""

import functools

import numpy as np
import pytest
import real_webui
from matrix import KINDS, SAMPLERS, Drawing, acts_on_layers, forecast_at_all
from real_webui import OWN, named

from lib_accel.settings.infotext import PRESET_KEY, REPORT_KEY, unquoted
from lib_accel.settings.presets import PRESETS

pytestmark = real_webui.needs("A1111_ROOT")


@pytest.fixture(scope="module", params=["A1111_ROOT", "A1111_SDXL"], ids=["sd1", "sdxl"])
def checkpoint(request):
    if request.param == "A1111_ROOT":
        return None
    return named(request.param) or pytest.skip(f"{request.param} names nothing")


@pytest.fixture(scope="module")
def without(checkpoint, tmp_path_factory):
    """Pictures of a WebUI that has no extensions."""
    drawing = Drawing(tmp_path_factory.mktemp("without"), checkpoint, extension=False)
    yield functools.cache(lambda kind, sampler: drawing.job(kind, sampler)[0])
    drawing.webui.stop()


@pytest.fixture(scope="module")
def drawing(checkpoint, tmp_path_factory):
    others = [OWN / "witness"]
    if checkpoint is not None:
        others.append(real_webui.says_sdxl(checkpoint, tmp_path_factory.mktemp("others")))
    drawing = Drawing(tmp_path_factory.mktemp("with"), checkpoint, others=others)
    yield drawing
    drawing.webui.stop()


def rows(webui):
    return webui.get("/witness/rows")[1]


def traces(webui):
    return webui.get("/witness/traces")[1]


@pytest.fixture(scope="module")
def off(drawing, without):
    """Rows of every U-Net call of a job without us, whose picture is that of a WebUI that has no extensions."""

    def draw(kind, sampler):
        drawing.begin(kind, sampler)
        rows(drawing.webui)
        picture, told = drawing.job(kind, sampler)
        assert np.array_equal(picture, without(kind, sampler)) and "Accel" not in told
        return rows(drawing.webui)

    return functools.cache(draw)


@pytest.mark.parametrize("preset", [name.title() for name in PRESETS])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_presets(drawing, without, off, sampler, kind, preset):
    webui, plain, calls, found = drawing.webui, without(kind, sampler), off(kind, sampler), traces(drawing.webui)
    rows(webui)
    picture, told = drawing.job(kind, sampler, {"enabled": True, "preset": preset, "auto": False})
    is_true(webui, rows(webui), calls)
    is_told(webui, told, preset, sampler)
    done = sum(report["calls_served"] + report["rows_served"] for _, report in passes(webui)) + webui.saved()
    shallow = sum(method["shallow_steps"] for method in webui.methods())
    assert bool(shallow) is (sampler == "UniPC"), "deep stages are served where steps cannot be forecast and no noise is added"
    done += shallow
    layers = any(method["layers"] for method in webui.methods())
    assert layers is acts_on_layers(preset)
    assert np.array_equal(picture, plain) is not bool(done or layers)
    assert np.array_equal(drawing.replay(kind, sampler, told)[0], picture)
    again, told = drawing.job(kind, sampler)
    assert np.array_equal(again, plain) and "Accel" not in told
    assert traces(webui) == found


def passes(webui):
    return [(entry["place"], entry["report"]) for entry in webui.account["passes"]]


def is_true(webui, seen, plain):
    """Whether what is told of the last job is what its U-Net was given. plain: the same of a job without us."""
    reports = [report for _, report in passes(webui)]
    assert not webui.failures() and not webui.account["complaint"]
    assert sum(report["unet_calls"] for report in reports) == len(plain)
    assert sum(report["calls_run"] for report in reports) == len(seen)
    assert sum(report["rows_run"] for report in reports) == sum(seen)
    assert sum(seen) + sum(report["rows_served"] for report in reports) + webui.saved() == sum(plain)
    for report in reports:
        assert report["calls_run"] + report["calls_served"] == report["unet_calls"]
        forecast = [step for method in report["methods"] for one in method["served"] for step in one["steps"]]
        assert len(forecast) == len(set(forecast)) == report["calls_served"], "one picture, one call a step"


def is_told(webui, told, preset, sampler):
    """Whether the line and PNG info say what was done in the last job."""
    line, reports = webui.account["line"], passes(webui)
    assert webui.account["preset"] == preset.lower() and line.startswith(f"Accel {preset}: ") and "few steps (" not in line
    assert "est." in line and f"{PRESET_KEY}: {preset}" in told and f"{REPORT_KEY}: " in told
    for place, report in reports:
        run, count, forecast = (report[name] for name in ("calls_run", "unet_calls", "calls_served"))
        ran = f"{report['steps']} steps, " + (f"{run} of {count} U-Net calls run" if forecast else f"{count} U-Net calls")
        said = f"{place}: {ran}" if len(reports) > 1 else ran
        assert said in line and unquoted(said) in told
        [why] = [method["reasons"] for method in report["methods"] if method["method"] == "Forecast"]
        if forecast:
            assert f"Forecast: {forecast} of {report['steps']} steps forecast" in line and forecast_at_all(sampler)
        else:
            assert why and all(reason["text"] in line for reason in why)
        for method in report["methods"]:
            for effect, layers in method["layers_by_effect"].items():
                assert f"{method['method']}: " in line and f"{effect} on {layers}" in line


# PNG info as version 0.1.0 wrote it, its presets for SD1 and one for SDXL, which was another; and what was at work in how many steps of 14.
DIRECTION = "Accel guidance skip: True, Accel guidance skip when: after, Accel guidance skip guided part: {}, "
DIRECTION += "Accel guidance skip keep the direction: True, Accel guidance skip guide again every: {}"
FIRST = {
    "Quality": ("Accel downsampling: True, Accel downsampling start: 0.2", {"TokenDownsampling": 11}),
    "Balanced": (
        "Accel merging: True, Accel merging ratio: 0.25, Accel merging matching: local, Accel downsampling: True, "
        + DIRECTION.format(0.4, 3),
        {"TokenMerging": 14, "TokenDownsampling": 14, "GuidanceSkip": 6},
    ),
    "Fast": (
        "Accel merging: True, Accel merging matching: local, Accel downsampling: True, Accel downsampling deeper factor: 2, "
        + DIRECTION.format(0.2, 7),
        {"TokenMerging": 14, "TokenDownsampling": 14, "GuidanceSkip": 10},
    ),
    "Fast, SDXL": (
        "Accel merging: True, Accel merging ratio: 0.4, Accel merging matching: local, Accel downsampling: True, "
        + DIRECTION.format(0.2, 7),
        {"TokenMerging": 14, "TokenDownsampling": 14, "GuidanceSkip": 10},
    ),
}
REPORT = '"Accel {0}: TokenDownsampling: downsampling on 3 of 10 layers for 11 of 14 steps; 14 steps, 14 U-Net calls in 4.75 s."'


@pytest.mark.parametrize("preset", FIRST)
@pytest.mark.parametrize("sampler", ["DPM++ 2M Karras", "Euler a"])
def test_pictures_of_the_first_version(drawing, without, off, sampler, preset, kind="txt2img"):
    """Their presets are others than today's of that name."""
    webui, plain, found = drawing.webui, without(kind, sampler), traces(drawing.webui)
    calls, (_, bare), (settings, did) = off(kind, sampler), drawing.job(kind, sampler), FIRST[preset]
    name = preset.split(",")[0]
    old = f"{bare}, Accel: {name}, Accel only where it pays: False, {settings}, Accel report: {REPORT.format(name)}"
    rows(webui)
    picture, told = drawing.replay(kind, sampler, old)
    is_true(webui, rows(webui), calls)
    [(_, report)] = passes(webui)
    assert {method["method"]: method["kept_direction_steps"] or method["steps"] for method in report["methods"]} == did
    assert webui.account["preset"] == "custom" and report["calls_served"] == 0 and not np.array_equal(picture, plain)
    assert "Accel: Custom" in told and settings in told and "forecast" not in told
    assert np.array_equal(drawing.replay(kind, sampler, told)[0], picture)
    again, told = drawing.job(kind, sampler)
    assert np.array_equal(again, plain) and "Accel" not in told and traces(webui) == found
