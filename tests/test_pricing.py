"""Speeds of whole pictures composed from calls that ran and what a call costs (benchmarks/pricing.py). Nothing is timed here."""

import json
import sys
from pathlib import Path

import pytest

from lib_accel.cost.estimate import SHAPES, decoding_work, step_work

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import pricing
import search_presets

PLAIN, DOWN = "plain", "downsampling:factor=2"
# Seconds of a call by variant and rows.
SECONDS = {(PLAIN, 2): 8.0, (PLAIN, 1): 5.0, (DOWN, 2): 6.0, (DOWN, 1): 4.0}


def ran(name, calls, **more):
    return {"name": name, "calls": calls, "calls_shallow": 0.0, "psnr": 40.0, "psnr_worst": 30.0} | more


@pytest.fixture
def timed(tmp_path):
    rows = [{"size": 512, "batch": batch, "variant": name, "min": seconds} for (name, batch), seconds in SECONDS.items()]
    rows.append({"size": 512, "batch": 2, "variant": "merging", "not_run": "it takes too long"})
    path = tmp_path / "calls.json"
    path.write_text(json.dumps({"settings": {"arch": "sd15"}, "rows": rows}))
    (costs,) = pricing.timed_costs(path)
    # Decoding takes its part of the time of plain calls.
    assert costs.decoding() == pytest.approx(8 * decoding_work(64, 64) / step_work(SHAPES["sd1"], 64, 64))
    return costs


def test_fewer_steps_cost_their_calls_and_decoding(timed):
    costs, decoding = pricing.Counted("sdxl", 1024), decoding_work(128, 128)
    call = step_work(SHAPES["sdxl"], 128, 128)
    assert pricing.speed(ran("fewer:part=0.6", 15.0), 25, costs) == pytest.approx((25 * call + decoding) / (15 * call + decoding))
    assert pricing.speed(ran("fewer:part=0.6", 15.0), 25, timed) == pytest.approx((25 * 8 + timed.decoding()) / (15 * 8 + timed.decoding()))


def test_calls_cost_what_their_methods_and_rows_cost(timed):
    """Half of the steps are downsampled; of 10 calls with 15 rows 5 have one row."""
    row = ran("downsampling:factor=2,window=0.5-1", 10.0, rows_part=15 / 40)
    seconds = 10 * (0.5 * (8 + 5) / 2 + 0.5 * (6 + 4) / 2)
    assert pricing.speed(row, 20, timed) == pytest.approx((20 * 8 + timed.decoding()) / (seconds + timed.decoding()))
    alone = ran("downsampling:factor=2", 20.0)
    assert pricing.speed(alone, 20, timed) == pytest.approx((20 * 8 + timed.decoding()) / (20 * 6 + timed.decoding()))


def test_presets_are_the_shapes_own(timed):
    assert pricing.speed(ran("quality", 15.0, rows_part=0.6), 25, timed) == pytest.approx(
        pricing.speed(ran("fewer:part=0.6", 15.0), 25, timed)
    )
    draft = ran("draft", 8.0, rows_part=0.25)
    assert pricing.speed(draft, 25, pricing.Counted("sdxl", 1024)) > pricing.speed(draft, 25, pricing.Counted("sdxl", 512))


def test_what_was_not_timed_has_no_speed(timed):
    assert pricing.speed(ran("merging", 25.0), 25, timed) is None
    assert pricing.speed(ran("deepcache:every=2", 13.0, calls_shallow=12.0), 25, timed) is None
    assert pricing.speed(ran("deepcache:every=2", 13.0, calls_shallow=12.0), 25, pricing.Counted("sd1", 512)) > 1.5


def test_other_tools_are_priced_where_they_leave_out_whole_calls(timed):
    spectrum = ran("spectrum", 17.0, work=0.6801)
    assert pricing.speed(spectrum, 25, timed) == pytest.approx(pricing.speed(ran("fewer:part=0.68", 17.0), 25, timed))
    assert pricing.speed(ran("published-deepcache", 25.0, work=0.5), 25, timed) is None
    # A host's own way: of 25 calls 8 have one row.
    seconds = 17 * 8 + 8 * 5
    decoding = timed.decoding()
    assert pricing.speed(ran("ngms:sigma=3", 25.0, rows_part=0.84), 25, timed) == pytest.approx((25 * 8 + decoding) / (seconds + decoding))


def test_a_quality_json_is_priced_without_drawing(timed, tmp_path, capsys):
    rows = [ran("plain", 25.0), ran("quality", 15.0, rows_part=0.6), ran("fewer:part=0.6", 15.0, psnr=30.0), ran("merging", 25.0)]
    (tmp_path / "quality.json").write_text(json.dumps({"settings": {"steps": 25}, "sizes": {"512": rows}}))
    words = ["--report-only", "--out", str(tmp_path), "--calls", str(tmp_path / "calls.json")]
    assert search_presets.main(words) == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert "sd1 512 | sd1 1024 | sd2 768 | sdxl 1024 | sd15 512, timed" in head
    by_name = {line.split(" | ")[0].strip("| "): line for line in lines}
    assert "plain" not in by_name and by_name["quality"].endswith("| front |")
    assert "front" not in by_name["fewer:part=0.6"] and " | - | 25.0 | " in by_name["merging"]


def test_results_that_a_suite_kept_are_priced_too(tmp_path, capsys):
    """The folder with the pictures is not in the repository; the numbers are. Any number of sizes."""
    with pytest.raises(SystemExit):
        search_presets.main(["--report-only", "--out", str(tmp_path / "kept")])
    assert "--report-only needs a folder of quality" in capsys.readouterr().err
    sizes = {size: [ran("plain", 25.0), ran(name, 15.0)] for size, name in (("256", "quality"), ("512", "fast"))}
    (tmp_path / "kept.json").write_text(json.dumps({"settings": {"steps": 25}, "sizes": sizes}))
    assert search_presets.main(["--report-only", "--out", str(tmp_path / "kept")]) == 0
    told = capsys.readouterr().out
    assert told.index("256 px") < told.index("| quality |") < told.index("512 px") < told.index("| fast |", told.index("512 px"))
