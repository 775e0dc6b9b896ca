"""A sampler of one pass, and the refiner's switch inside it."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from modules import shared

# Evaluations of each step, by how many timesteps a pass has.
SAMPLERS = {
    "Euler": lambda n: [1] * n,
    "Euler a": lambda n: [1] * n,
    # In the host as many as it likes.
    "DPM++ 2M": lambda n: [1] * n,
    "DPM adaptive": lambda n: [1] * n,
    "LCM": lambda n: [1] * n,
    "Heun": lambda n: [2] * (n - 1) + [1],
    "DDIM": lambda n: [1] * (n - 1),
    "PLMS": lambda n: [2] + [1] * (n - 2),
    "UniPC": lambda n: [2] + [1] * (n - 2),
}
# Whose number of timesteps is that of a range of 1000.
TIMESTEPS = ("DDIM", "PLMS", "UniPC")
NOISY = ("Euler a", "LCM")


class InterruptedException(BaseException):
    pass


def setup_img2img_steps(p, steps=None):
    """(steps of the whole schedule, index of the first of the last ones that are run). ``steps`` are run as they are."""
    if shared.opts.img2img_fix_steps or steps is not None:
        steps = steps or p.steps
        return int(steps / min(p.denoising_strength, 0.999)), steps - 1
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)


def apply_refiner(denoiser):
    """Changes the model in the middle of a pass, by the share of steps done. True when it did."""
    from modules import sd_models

    p = denoiser.p
    switch = getattr(p, "refiner_model", None)
    if switch is None or sd_models.model_data.sd_model is switch or denoiser.step / denoiser.total_steps < p.refiner_switch_at:
        return False
    sd_models.switch_to(switch, trash=getattr(p, "refiner_trashes", False))
    p.setup_conds()
    denoiser.sampler.sampler_extra_args.update(cond=p.c, uncond=p.uc)
    return True


def sigmas_of(steps):
    return torch.cat([torch.linspace(14.0, 0.05, steps), torch.zeros(1)]) if steps > 1 else torch.tensor([14.0, 0.0])


class Sampler:
    """name: one of `SAMPLERS`."""

    def __init__(self, name):
        from modules.sd_samplers_cfg_denoiser import CFGDenoiser

        self.name, self.last_latent, self.sampler_extra_args = name, None, {}
        self.config, self.eta = SimpleNamespace(name=name, options={}), 0.0 if name in TIMESTEPS else 1.0
        self.model_wrap_cfg = CFGDenoiser(self)

    def get_sigmas(self, p, steps):
        # The host writes the schedule's name into PNG info here.
        p.extra_generation_params["Schedule type"] = "Uniform"
        return sigmas_of(len(range(0, 1000, 1000 // steps)) if self.name in TIMESTEPS else steps)

    def sample(self, p, x, conditioning, unconditional, image_conditioning=None):
        count = len(range(0, 1000, 1000 // p.steps)) if self.name in TIMESTEPS else p.steps
        sigmas = sigmas_of(count)
        return self._run(p, x * sigmas[0], sigmas, p.steps, conditioning, unconditional, image_conditioning)

    def sample_img2img(self, p, x, noise, conditioning, unconditional, steps=None, image_conditioning=None):
        steps, begin = setup_img2img_steps(p, steps)
        self.model_wrap_cfg.init_latent = x
        sigmas = sigmas_of(steps)[steps - begin - (self.name not in TIMESTEPS) :]
        return self._run(p, x + noise * sigmas[0], sigmas, begin + 1, conditioning, unconditional, image_conditioning)

    def _run(self, p, x, sigmas, steps, cond, uncond, image_cond):
        denoiser = self.model_wrap_cfg
        denoiser.p, denoiser.step, denoiser.image_cfg_scale = p, 0, getattr(p, "image_cfg_scale", None)
        denoiser.steps = shared.state.sampling_steps = steps
        denoiser.total_steps = steps * (2 if self.name == "Heun" else 1)
        extra = {"cond": cond, "uncond": uncond, "image_cond": image_cond, "cond_scale": p.cfg_scale, "s_min_uncond": p.s_min_uncond}
        self.sampler_extra_args, self.last_latent = extra, x
        try:
            return self._loop(x, sigmas, denoiser, extra)
        except InterruptedException:
            return self.last_latent

    def _loop(self, x, sigmas, denoiser, extra):
        evaluations = SAMPLERS[self.name](len(sigmas) - 1)
        for i, count in enumerate(evaluations):
            now, then = sigmas[i], sigmas[i + 1] if i + 1 < len(evaluations) else sigmas[-1]
            direction = (x - denoiser(x, now.expand(x.shape[0]), **extra)) / now
            # Late, as in the host: after the step's first evaluation.
            shared.state.sampling_step = i
            if count == 2:
                ahead = x + direction * (then - now)
                direction = (direction + (ahead - denoiser(ahead, then.expand(x.shape[0]), **extra)) / then) / 2
            x = x + direction * (then - now)
            if self.name in NOISY:
                x = x + then * 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(i))
        return x
