"""What gives models away that are run in few steps."""

import pytest

from lib_accel.settings.few_step_models import few_step_sign, loras_in
from lib_accel.settings.model_families import with_steps

FEW = [
    "sd_xl_turbo_1.0",
    "Hyper-SDXL-8steps",
    "hyperSDXL",
    "dreamshaperXL_v21TurboDPMSDE",
    "LCM_Dreamshaper_v7",
    "dreamshaperLCM",
    "lcm-lora-sdv1-5",
]
FEW += ["sdxl_lightning_4step", "realvisxlV40_v40LightningBakedvae", "some/dmd2_sdxl_4step", "hyper_sd15"]
MANY = ["v1-5-pruned-emaonly", "sd_xl_base_1.0", "hyperrealism_v3", "calcmodel", "juggernautXL_v9", "dmdmodel"]


@pytest.mark.parametrize("name", FEW)
def test_names_of_few_step_models(name):
    assert "name" in few_step_sign(25, [name], "Euler", 7)
    assert "LoRA" in few_step_sign(25, ["v1-5"], "Euler", 7, [name])


@pytest.mark.parametrize("name", MANY)
def test_other_names(name):
    assert few_step_sign(25, [name], "Euler a", 7, [name]) is None


@pytest.mark.parametrize(
    ("given", "sign"),
    [
        ({"steps": 10}, "10 steps"),
        ({"steps": 11}, None),
        ({"steps": 25, "sampler": "LCM"}, "its sampler is LCM"),
        ({"steps": 25, "sampler": "DPM++ 2M"}, None),
        ({"steps": 20, "guidance": 1.5}, "CFG scale 1.5"),
        ({"guidance": 2.0}, "CFG scale 2"),
        ({"steps": 20, "guidance": 2.5}, None),
        ({"steps": 21, "guidance": 1.0}, None),
        ({"steps": 25, "guidance": 1.0, "transformer": True}, None),
        ({"steps": 10, "guidance": 1.0, "transformer": True}, "10 steps"),
        ({}, None),
    ],
)
def test_other_signs(given, sign):
    assert few_step_sign(**given) == sign


def test_tags_of_loras():
    assert loras_in("a <lora:lcm-lora:0.8> b <lora:off:0> <lora:plain> <lora:parts:1:0.5> <hypernet:turbo:1>") == [
        "lcm-lora",
        "plain",
        "parts",
    ]


@pytest.mark.parametrize(
    ("shape", "sign", "family"), [("sd1", None, "sd1"), ("sdxl", "4 steps", "few-step"), ("transformer", "4 steps", "transformer")]
)
def test_the_family_by_whose_values_presets_go(shape, sign, family):
    assert with_steps(shape, sign) == family
