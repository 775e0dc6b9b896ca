#!/usr/bin/env bash
# More steps should never be worse. With timestep_spacing "leading", which SDXL is published with, diffusers takes 1000 // steps (DPM++ and UniPC:
# 1000 // (steps + 1)) as the distance of timesteps, and what the division drops is missing at the noisy end: 99 steps of DPM++ start at
# 991, 100 at 901, 250 at 751, 500 at 501, all from pure noise. An exact predictor shows the error. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch

print("diffusers", diffusers.__version__)
mean, spread = 0.5, 0.3


def brightness(scheduler):
    """What sampling makes of the mean of pictures whose values are normal (0.5, 0.3): for those the best prediction is a formula."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 32, 32)
    x = (x - x.mean()) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        signal = scheduler.alphas_cumprod[int(t)]
        noisy = scheduler.scale_model_input(x, t)
        noise = (1 - signal).sqrt() * (noisy - signal.sqrt() * mean) / (signal * spread**2 + 1 - signal)
        x = scheduler.step(noise, t, x).prev_sample
    return x.mean().item()


beta = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1, "timestep_spacing": "leading"}
plain = {"clip_sample": False, "set_alpha_to_one": False}
starts, errors = {}, {}
for name, more in (("DDIM", plain), ("EulerDiscrete", {}), ("DPMSolverMultistep", {}), ("UniPCMultistep", {})):
    for steps in (50, 99, 100, 150, 250, 500, 600):
        scheduler = getattr(diffusers, name + "Scheduler")(**beta, **more)
        scheduler.set_timesteps(steps)
        starts[name, steps] = int(scheduler.timesteps[0])
        told = f"{name}, {steps} steps: first timestep {starts[name, steps]}"
        if name in ("DDIM", "DPMSolverMultistep"):
            errors[name, steps] = abs(brightness(scheduler) - mean)
            told += f", mean of the picture off by {errors[name, steps]:.3f}"
        print(told)
expected = [981, 981, 991, 895, 997, 999, 600] * 2 + [951, 991, 901, 901, 751, 501, 601] * 2
grown = {(name, steps): error / errors[name, 50] for (name, steps), error in errors.items()}
ddim, dpm = (lambda steps: grown["DDIM", steps]), (lambda steps: grown["DPMSolverMultistep", steps])
worse = ddim(150) > 1.2 and ddim(600) > 3 and dpm(100) > 1.2 and dpm(250) > 2 and dpm(500) > 4
raise SystemExit(0 if list(starts.values()) == expected and worse else 1)
PYTHON
