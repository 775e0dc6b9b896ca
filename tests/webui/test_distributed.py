"""Beside Distributed, whose master sends parts of a job to other WebUIs."""

import pytest
from comparing import compare
from editing import SWAP, draw
from harness import same
from sharing import share

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.4}


def test_machines_are_told_the_masters_settings_by_name(host):
    script = share(host, {"laptop": True})
    values = host.args("txt2img", ON)
    ours = host.script()
    # As the page sends them: every value, in order.
    knobs = list(values[ours.args_from : ours.args_to])
    knobs[0] = True
    host.job(accel=knobs)
    (given, *_) = script.sent[0]["alwayson_scripts"]["Accel"]["args"]
    assert given["enabled"] is True
    assert all(isinstance(name, str) for name in given)


@pytest.mark.parametrize("first", [False, True])
def test_pictures_carry_their_own_machines_account(host, first):
    share(host, {"laptop": True, "old": False}, first=first)
    done = host.job(accel=ON, batch_size=2)
    assert len(done.infotexts) == 4
    mine, also_mine, laptop, old = done.infotexts
    assert "merging on 3 of 7 layers" in mine and "merging on 3 of 7 layers" in also_mine
    assert "Accel merging ratio: 0.4" in laptop and "merging on 3 of 7 layers" in laptop
    assert "Accel" not in old
    assert "laptop 1 (all with Accel)" in done.comments and "old 1 (without Accel)" in done.comments


def test_a_machine_that_refuses_the_settings_says_so_in_its_picture(host):
    share(host, {"attic": "older"})
    done = host.job(accel=ON)
    assert "Accel report: " in done.infotexts[1] and "Accel merging ratio" not in done.infotexts[1]
    assert "attic 1 (without Accel)" in done.comments


def test_a_job_run_twice_on_one_object_can_be_sent_twice(host):
    script = share(host, {"laptop": True})
    p = host.p(accel=ON)
    for _ in range(2):
        host.processing.process_images(p)
        p.batch_size = 1
    assert len(script.sent) == 2


def test_own_presets_are_sent_as_their_values(host):
    from lib_accel.webui.accordion import user_presets

    user_presets.save("Mine", {"merging.on": True, "merging.ratio": 0.3})
    script = share(host, {"laptop": True})
    host.job(accel={"preset": "Mine"})
    (given, *_) = script.sent[0]["alwayson_scripts"]["Accel"]["args"]
    assert given["preset"].lower() == "custom" and given["merging.ratio"] == 0.3


def test_comparisons_stay_on_this_machine(host):
    script = share(host, {"laptop": True})
    done = compare(host)
    assert script.sent == []
    assert "drawn on this machine" in str(done.comments)


def test_edits_stay_on_this_machine(host):
    alone = draw(host, SWAP)
    script = share(host, {"laptop": True})
    done = draw(host, SWAP)
    assert script.sent == [] and same(done, alone)
    assert "drawn on this machine" in str(done.comments)


def test_nothing_is_sent_or_said_where_it_is_switched_off(host):
    script = share(host, {"laptop": True})
    script.world.enabled = False
    script.busy = True
    done = host.job(accel=ON)
    assert script.sent == [] and "laptop" not in done.comments
    assert same(done, host.job(accel=ON))
