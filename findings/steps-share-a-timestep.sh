#!/usr/bin/env bash
# In diffusers, schedulers with exponential, Karras or Lu sigmas list the same timestep for two steps of different noise: timesteps are whole
# numbers, and noise levels near the end are closer together than those. DPM++ 2M with exponential sigmas has 24 different timesteps for 25
# steps. Whoever finds a step by its timestep, or counts different timesteps, is one step off. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "numpy"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
from diffusers import DPMSolverMultistepScheduler

print("diffusers", diffusers.__version__)
found = {}
for name, steps in (("", 25), ("use_exponential_sigmas", 25), ("use_karras_sigmas", 50), ("use_lu_lambdas", 50)):
    more = {name: True} if name else {}
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace", **more
    )
    scheduler.set_timesteps(steps)
    found[name, steps] = len(set(scheduler.timesteps.tolist()))
    levels = len(set(scheduler.sigmas.tolist())) - 1
    print(f"{name or 'plain'}: {steps} steps, {levels} noise levels, {found[name, steps]} timesteps")
expected = {("", 25): 25, ("use_exponential_sigmas", 25): 24, ("use_karras_sigmas", 50): 49, ("use_lu_lambdas", 50): 48}
raise SystemExit(0 if found == expected else 1)
PYTHON
