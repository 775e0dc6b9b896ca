#!/usr/bin/env bash
# from_config, diffusers' way to swap the sampler, hands over only what the model's file spelled out: what was left to a default becomes the new class's
# default. Saving spells everything out. So Stable Diffusion 1.5's scheduler swapped for Euler starts at timestep 999 and noise 14.6; saved,
# loaded and swapped by the same lines it starts at 901 and noise 8.4: other pictures from the same weights. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "numpy"
mkdir "$folder/published"
cat > "$folder/published/scheduler_config.json" <<'JSON'
{
  "_class_name": "PNDMScheduler",
  "_diffusers_version": "0.6.0",
  "beta_end": 0.012,
  "beta_schedule": "scaled_linear",
  "beta_start": 0.00085,
  "num_train_timesteps": 1000,
  "set_alpha_to_one": false,
  "skip_prk_steps": true,
  "steps_offset": 1,
  "trained_betas": null,
  "clip_sample": false
}
JSON
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

print("diffusers", diffusers.__version__)
published = PNDMScheduler.from_pretrained("published")
published.save_pretrained("saved")
saved = PNDMScheduler.from_pretrained("saved")
starts = {}
for name, own in (("published", published), ("saved and loaded", saved)):
    for kind in (None, EulerDiscreteScheduler, DPMSolverMultistepScheduler):
        swapped = kind.from_config(own.config) if kind else own
        swapped.set_timesteps(10)
        noise = getattr(swapped, "sigmas", [None])[0]
        starts[name, kind] = int(swapped.timesteps[0])
        spacing, noise = swapped.config.timestep_spacing, "" if noise is None else f", noise {noise:.1f}"
        print(f"{name}, {type(swapped).__name__}: {spacing}, {', '.join(str(int(t)) for t in swapped.timesteps[:4])} ...{noise}")
raise SystemExit(0 if list(starts.values()) == [901, 999, 999, 901, 901, 901] else 1)
PYTHON
