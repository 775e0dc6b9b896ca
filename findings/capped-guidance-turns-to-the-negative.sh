#!/usr/bin/env bash
# Guidance starts from the negative prompt's prediction and goes scale times the difference towards the prompt's, or, as papers write it, from the
# prompt's own and goes scale - 1 times. Both are one, and diffusers' guiders offer both (use_original_formulation). Adaptive projected guidance
# caps that difference, and takes away what lies along the prompt's prediction (eta=0). diffusers does so to the whole way from the negative
# prompt, the paper only to the part beyond the prompt. So the default formulation is not the paper's: the cap of 15 that is on from the start holds
# back the prompt itself. The norm that it caps grows with the picture's size, so large pictures end between the two prompts, less like the prompt
# than with no guidance at all, and at a cap near 0 the negative prompt is drawn. With eta=0 the negative prompt's part along the prompt's
# prediction stays. Nothing is said. Set use_original_formulation, and a scale that is 1 less. Exits non-zero when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "torch==2.13.0" "diffusers==0.42.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PYTHON'
import diffusers
import torch
from diffusers import AdaptiveProjectedGuidance, ClassifierFreeGuidance, EulerDiscreteScheduler
from diffusers import ClassifierFreeZeroStarGuidance, TangentialClassifierFreeGuidance

diffusers.logging.set_verbosity_error()
print("diffusers", diffusers.__version__, "torch", torch.__version__)
same = True
scale, steps, spread = 7.5, 20, 0.5
prompt, negative = 0.5, -0.5


def guided(cls, wanted, unwanted, original=False, step=10, **options):
    guider = cls(guidance_scale=scale - original, use_original_formulation=original, **options)
    guider.set_state(step=step, num_inference_steps=steps, timestep=None)
    return guider.forward(wanted, unwanted).pred


generator = torch.Generator().manual_seed(0)
unwanted = torch.randn(1, 4, 64, 64, generator=generator, dtype=torch.float64)
wanted = 0.7 * unwanted + 0.3 * torch.randn(unwanted.shape, generator=generator, dtype=torch.float64)
unit = wanted / wanted.norm()
print("difference of the predictions", f"{(wanted - unwanted).norm():.1f}")
print("guider", "how far the formulations are apart, of that difference", "what lies along the prompt's prediction: default", "original", sep="\t")
for name, cls, options, equal in (
    ("classifier-free", ClassifierFreeGuidance, {}, True),
    ("zero star", ClassifierFreeZeroStarGuidance, {}, True),
    ("tangential", TangentialClassifierFreeGuidance, {}, True),
    ("projected, no cap", AdaptiveProjectedGuidance, {"adaptive_projected_guidance_rescale": 0.0}, True),
    ("projected, no cap, eta 0", AdaptiveProjectedGuidance, {"adaptive_projected_guidance_rescale": 0.0, "eta": 0.0}, False),
    ("projected, as it comes", AdaptiveProjectedGuidance, {}, False),
    ("projected, cap 0.001", AdaptiveProjectedGuidance, {"adaptive_projected_guidance_rescale": 0.001}, False),
):
    found = [guided(cls, wanted, unwanted, original, **options) for original in (False, True)]
    apart = ((found[0] - found[1]).norm() / (wanted - unwanted).norm()).item()
    print(f"{name:26}", f"{apart:.4f}", *(f"{(each * unit).sum() / wanted.norm():.3f}" for each in found), sep="\t")
    same &= apart < 1e-4 if equal else apart > 0.3
    if "eta 0" in name:
        along = [((each * unit).sum() / wanted.norm()).item() for each in found]
        same &= abs(along[1] - 1) < 1e-6 and abs(along[0] - ((unwanted * unit).sum() / wanted.norm()).item()) < 1e-6
    if "0.001" in name:
        same &= torch.allclose(found[0], unwanted, atol=1e-2) and torch.allclose(found[1], wanted, atol=1e-2)


def predicted(latents, noise, mean):
    """What an exact network answers where every value of every picture is drawn alone around the prompt's mean."""
    clean = mean + spread**2 / (spread**2 + noise**2) * (latents - mean)
    return (latents - clean) / noise


def draw(side, guide):
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    latents = torch.randn(1, 4, side // 8, side // 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * scheduler.init_noise_sigma
    for step, timestep in enumerate(scheduler.timesteps):
        noise = scheduler.sigmas[step].double()
        answer = guide(predicted(latents, noise, prompt), predicted(latents, noise, negative), step)
        latents = scheduler.step(answer, timestep, latents).prev_sample
    return latents.mean().item()


print(f"pictures around {prompt} by the prompt, around {negative} by the negative prompt; what is drawn:")
print("pixels", "unguided", "classifier-free", "projected, original", "projected, as it comes", "with a cap of 0.1", sep="\t")
drawn = {}
for side in (512, 1024, 2048):
    drawn[side] = [
        draw(side, lambda wanted, unwanted, step: wanted),
        draw(side, lambda wanted, unwanted, step: guided(ClassifierFreeGuidance, wanted, unwanted, step=step)),
        draw(side, lambda wanted, unwanted, step: guided(AdaptiveProjectedGuidance, wanted, unwanted, True, step)),
        draw(side, lambda wanted, unwanted, step: guided(AdaptiveProjectedGuidance, wanted, unwanted, False, step)),
        draw(side, lambda wanted, unwanted, step: guided(AdaptiveProjectedGuidance, wanted, unwanted, False, step, adaptive_projected_guidance_rescale=0.1)),
    ]
    print(side, *(f"{mean:.3f}" for mean in drawn[side]), sep="\t")
for side, (plain, free, original, default, tight) in drawn.items():
    same &= original > plain and free > plain and abs(tight - negative) < 0.05
    same &= (default < plain) == (side > 512)
raise SystemExit(0 if same else 1)
PYTHON
