#!/usr/bin/env bash
# Helios (diffusers) adds noise whose 2x2 blocks have unit variance and correlations of -gamma, by a Cholesky factor. At the scheduler's own
# gamma, 1/3, the numbers of a block add up to zero: the covariance is singular, and the 1e-8 that is to prevent that is added to 1 in
# float32, where it is nothing. Whether a factor is found is a matter of rounding: with the same wheels the pipeline draws on one processor
# and raises on another, and where it draws, the last pivot is rounding noise. gamma=0.3 is safe. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "transformers==5.23.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
from fractions import Fraction
from types import SimpleNamespace

import diffusers
import torch

print("diffusers", diffusers.__version__, "torch", torch.__version__, "on", torch.backends.cpu.get_cpu_capability())
factor, asked = torch.linalg.cholesky, []


def witness(covariance):
    """Keeps what the pipeline wants to factorise."""
    asked.append(covariance.clone())
    return factor(covariance)


torch.linalg.cholesky = witness


def noise(scheduler):
    """What the pipeline's own method makes of this scheduler's settings, in words."""
    held = SimpleNamespace(scheduler=scheduler)
    drawn = torch.Generator().manual_seed(0)
    try:
        made = diffusers.HeliosPyramidPipeline.sample_block_noise(held, 1, 4, 1, 16, 16, (1, 2, 2), torch.device("cpu"), drawn)
        return f"noise of variance {made.var():.2f}"
    except torch.linalg.LinAlgError as error:
        return f"{type(error).__name__}: {error}"


told = noise(diffusers.HeliosScheduler())
gamma = Fraction(1, 3)
assert diffusers.HeliosScheduler().config.gamma == float(gamma)
# Of a matrix with 1 everywhere on the diagonal and -gamma elsewhere the smallest of four eigenvalues is 1 - 3 gamma.
print("the smallest eigenvalue at gamma = 1/3, exactly:", 1 - 3 * gamma)
(covariance,) = asked
plain = torch.eye(4) * (1 + float(gamma)) - torch.ones(4, 4) * float(gamma)
print("the 1e-8 on its diagonal changes it in float32:", not torch.equal(covariance, plain))
print("its smallest eigenvalue as computed:", f"{torch.linalg.eigvalsh(covariance.double())[0]:.1e}")
print("on this processor:", told)
safe = noise(diffusers.HeliosScheduler(gamma=0.3))
print("with gamma=0.3:", safe, "and a smallest eigenvalue of", f"{torch.linalg.eigvalsh(asked[-1].double())[0]:.2f}")
singular = 1 - 3 * gamma == 0 and torch.equal(covariance, plain) and abs(torch.linalg.eigvalsh(covariance.double())[0]) < 1e-7
raise SystemExit(0 if singular and safe.startswith("noise") else 1)
PYTHON
