#!/usr/bin/env bash
# "Beta Sampling is All You Need" spreads the steps over time by a beta distribution: many at the start, many at the end, where details are made, and
# half of them in each half. diffusers' use_beta_sigmas, which names that paper, spreads the noise levels so, not the times. In flow matching, as of
# SD 3 and Flux, the two are one. Stable Diffusion's and SDXL's noise goes from 14.6 to 0.03, but is down to 1.6 at half time: of 20 steps 16 are
# spent above that, and the last ones of DPM++ go 558, 421, 235, 51, 0. All samplers with the option have it so. With an exact network DPM++ 2M ends
# more than twice as far from the right picture as without it, and three times as far as at the paper's times. Give those as timesteps= instead.
# Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "numpy==2.4.6" "scipy==1.17.1" "torchsde==0.2.6"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import numpy as np
import scipy.stats
import torch

diffusers.utils.logging.set_verbosity_error()
print("diffusers", diffusers.__version__, "scipy", scipy.__version__)
published = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
paper = (999 * scipy.stats.beta.ppf(np.linspace(1, 0, 20), 0.6, 0.6)).round().astype(int).tolist()

# Where the 20 steps are.
names = ["Euler", "Heun", "LMS", "KDPM2", "KDPM2Ancestral"]
names = [name + "Discrete" for name in names] + ["DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver"]
names += ["DPMSolverSDE", "DPMSolverMultistepInverse"]
below = {}
for name in [*names, "FlowMatchEulerDiscrete"]:
    scheduler = getattr(diffusers, name + "Scheduler")(use_beta_sigmas=True, **({} if "Flow" in name else published))
    scheduler.set_timesteps(20)
    times = [round(t) for t in scheduler.timesteps[:: scheduler.order].tolist()]
    assert len(times) == 20
    below[name] = sum(t < 500 for t in times)
    if name in ("EulerDiscrete", "DPMSolverMultistep", "FlowMatchEulerDiscrete"):
        print(f"{name}:", *times)
print("the paper:", *paper)
print("steps below the middle:", *(f"{name} {count}" for name, count in below.items()), "the paper", sum(t < 500 for t in paper))

# What that does to a picture. Every value of the data is near one of four, so the best prediction is a formula.
values = torch.tensor([-1.0, -0.2, 0.3, 1.0], dtype=torch.float64).view(4, 1, 1, 1, 1)
start = torch.randn(1, 4, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
kept = diffusers.DDIMScheduler(**published).alphas_cumprod.double()
levels = ((1 - kept) / kept).sqrt().log().numpy()
most, middle, least = np.exp(levels[[-1, 500, 0]])
print(f"noise at the start {most:.1f}, in the middle {middle:.1f}, at the end {least:.2f}")


def noise_in(x, level):
    likely = torch.softmax(-((x - values) ** 2) / (level**2 + 0.01) / 2, 0)
    return (likely * (x - values)).sum(0) * level / (level**2 + 0.01)


def drawn(name, timesteps=None, **more):
    scheduler = getattr(diffusers, name)(**published, **more)
    scheduler.set_timesteps(**({"timesteps": timesteps} if timesteps else {"num_inference_steps": 20}))
    x = start * (most if scheduler.init_noise_sigma > 2 else most / (1 + most**2) ** 0.5)
    for t in scheduler.timesteps:
        level = np.exp(np.interp(t.item(), range(1000), levels))
        noise = noise_in(scheduler.scale_model_input(x, t) * (1 + level**2) ** 0.5, level)
        x = scheduler.step(noise, t, x).prev_sample
    return x


right, steps = start * most, np.exp(np.linspace(levels[-1], np.log(0.002), 2000))
for level, after in zip(steps, steps[1:]):  # Heun, in small steps
    slope = noise_in(right, level)
    right = right + (after - level) * (slope + noise_in(right + (after - level) * slope, after)) / 2
errors = {}
for name in ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
    ways = {"as published": {}, "Karras": {"use_karras_sigmas": True}, "beta": {"use_beta_sigmas": True}, "the paper's times": {"timesteps": paper}}
    errors[name] = {way: (drawn(name, **more) - right).square().mean().sqrt().item() for way, more in ways.items()}
    print(name, "20 steps, off by", *(f"{error:.3f} ({way})" for way, error in errors[name].items()))
ok = below.pop("FlowMatchEulerDiscrete") == 10 and set(below.values()) == {4} and sum(t < 500 for t in paper) == 10
euler, dpm = errors.values()
ok &= dpm["beta"] > 2 * dpm["as published"] and dpm["beta"] > 2.5 * dpm["the paper's times"]
ok &= euler["beta"] > 1.5 * max(euler["as published"], euler["the paper's times"])
raise SystemExit(0 if ok else 1)
PYTHON
