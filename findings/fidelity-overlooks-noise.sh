#!/usr/bin/env bash
# torchmetrics' VisualInformationFidelity says how much of a picture is left in a copy; 1 is all of it. Neither its arguments nor its documents
# speak of a range, so pictures go in as torch has them, from 0 to 1, and plausible numbers come out. But the measure reckons with an eye whose own
# noise has a variance of 2, on a scale of 255: from 0 to 1 that drowns both pictures, and noise in the copy is next to nothing beside it. A copy
# with noise at 14 dB gets 0.86, a slightly blurred one at 21 dB gets 0.31. Times 255 they get 0.12 and 0.27, so the order turns around. A copy with
# half as much contrast again is "twice" the picture itself. Nothing is said. Multiply by 255, or give sigma_n_sq=2/255**2. Exits non-zero when that
# changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "torchmetrics==1.9.0" "sewar==0.4.10" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import inspect
import warnings

import sewar
import torch
import torchmetrics
from torch.nn.functional import avg_pool2d
from torchmetrics.functional.image import visual_information_fidelity
from torchmetrics.image import PeakSignalNoiseRatio, VisualInformationFidelity

print("torchmetrics", torchmetrics.__version__)
said = []
warnings.simplefilter("always")
warnings.showwarning = lambda told, *_, **__: said.append(str(told))
generator = torch.Generator().manual_seed(0)
# A picture with the spectrum of photographs: the finer, the fainter.
side = 128
waves = torch.fft.fftfreq(side)
fineness = (waves[:, None] ** 2 + waves**2).sqrt()
fineness[0, 0] = float("inf")
picture = torch.fft.ifft2(torch.fft.fft2(torch.randn(1, 3, side, side, generator=generator)) / fineness).real
picture = (0.5 + 0.18 * picture / picture.std()).clamp(0, 1)


def noisy(spread):
    return (picture + spread * torch.randn(picture.shape, generator=generator)).clamp(0, 1)


def measured(drawn, scale=1, **options):
    return VisualInformationFidelity(**options)(drawn * scale, picture * scale).item()


def pixels(image):
    return image[0].permute(1, 2, 0).double().numpy() * 255


print("what was done to the picture", "dB", "0 to 1", "0 to 255", "sewar", "0 to 1, sigma_n_sq=2/255**2", sep="\t")
found = {}
for name, drawn in (
    ("nothing", picture),
    ("noise 0.05", noisy(0.05)),
    ("noise 0.1", noisy(0.1)),
    ("noise 0.2", noisy(0.2)),
    ("blur, 3x3 twice", avg_pool2d(avg_pool2d(picture, 3, 1, 1, count_include_pad=False), 3, 1, 1, count_include_pad=False)),
    ("8 shades for each color", (picture * 7).round() / 7),
    ("contrast times 1.5", (0.5 + 1.5 * (picture - 0.5)).clamp(0, 1)),
):
    unit, bytes_, scaled = measured(drawn), measured(drawn, 255), measured(drawn, sigma_n_sq=2 / 255**2)
    other = sewar.vifp(pixels(picture), pixels(drawn)).item()
    found[name] = unit, bytes_
    decibels = PeakSignalNoiseRatio(data_range=1.0)(drawn, picture).item()
    print(f"{name:24}", f"{decibels:.1f}", *(f"{value:.3f}" for value in (unit, bytes_, other, scaled)), sep="\t")
    assert abs(bytes_ - other) < 1e-3 and abs(bytes_ - scaled) < 1e-3, "not the same measure"
documents = inspect.getdoc(VisualInformationFidelity) + inspect.getdoc(visual_information_fidelity)
speaks = "range" in documents or "255" in documents
print("its documents speak of a range:", speaks, "warnings:", len(said))
expected = {
    "nothing": (1.0, 1.0),
    "noise 0.05": (0.99, 0.42),
    "noise 0.1": (0.98, 0.25),
    "noise 0.2": (0.86, 0.12),
    "blur, 3x3 twice": (0.31, 0.27),
    "8 shades for each color": (1.0, 0.47),
    "contrast times 1.5": (2.0, 0.82),
}
same = all(abs(seen - told) < 0.01 for name in expected for seen, told in zip(found[name], expected[name]))
raise SystemExit(0 if same and not speaks and not said else 1)
PYTHON
