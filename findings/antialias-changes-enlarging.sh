#!/usr/bin/env bash
# Antialiasing is for shrinking: enlarged, nothing can alias, and PyTorch's bilinear gives the same with and without it. Its bicubic does not:
# antialias=True also takes another curve (a = -0.5, as Pillow; without, -0.75), so enlarging differs by a fifth of the latents' spread. Both are
# offered side by side for enlarging latents in a hires pass, where people compare them. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.4.6" "pillow==12.3.0"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
import torch
from PIL import Image
from torch.nn.functional import interpolate

print("torch", torch.__version__)
latents = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
spread, ok = latents.std(), True


def cubic(values, scale, a):
    """Keys' cubic convolution along both axes, from its formula; samples beyond the edge repeat the last one."""

    def along(rows):
        place = (numpy.arange(rows.shape[0] * scale) + 0.5) / scale - 0.5
        whole = numpy.floor(place).astype(int)
        out = 0
        for offset in range(-1, 3):
            x = abs(place - (whole + offset))[:, None]
            near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
            out = out + numpy.where(x <= 1, near, far) * rows[numpy.clip(whole + offset, 0, len(rows) - 1)]
        return out

    return along(along(values).T).T


for mode in ("bilinear", "bicubic"):
    plain, smooth = (interpolate(latents, scale_factor=2, mode=mode, antialias=wanted) for wanted in (False, True))
    differs = float((plain - smooth).abs().max() / spread)
    print(f"{mode}, twice the size: with and without antialias differ by up to {differs:.3f} of the spread")
    ok &= differs > 0.1 if mode == "bicubic" else differs < 1e-12
inside = slice(8, -8)
for name, found, a in (("without", plain, -0.75), ("with", smooth, -0.5)):
    off = {curve: float(abs(found[0, 0].numpy() - cubic(latents[0, 0].numpy(), 2, curve))[inside, inside].max()) for curve in (-0.75, -0.5)}
    print(f"bicubic {name} antialias, away from the edges: off the curve of a = -0.75 by {off[-0.75]:.1e}, of a = -0.5 by {off[-0.5]:.1e}")
    ok &= off[a] < 1e-12
pillow = numpy.asarray(Image.fromarray(latents[0, 0].float().numpy()).resize((128, 128), Image.Resampling.BICUBIC))
ok &= float(abs(pillow - smooth[0, 0].numpy()).max()) < 1e-5 < float(abs(pillow - plain[0, 0].numpy()).max())
print("Pillow's bicubic is the one with antialias:", ok)
raise SystemExit(0 if ok else 1)
PYTHON
