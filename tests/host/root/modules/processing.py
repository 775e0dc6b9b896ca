"""A job: the order in which scripts are asked (HOST.md 8.1), around trivial text and pictures."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from modules import errors, extra_networks, infotext_utils, paths, prompt_parser, sd_models, sd_samplers_common, shared
from modules.scripts import PostprocessBatchListArgs, PostprocessImageArgs, PostSampleArgs


class Processed:
    def __init__(self, p, images, infotexts, comments=""):
        self.images, self.infotexts, self.info = images, infotexts, infotexts[0] if infotexts else ""
        self.comments = comments or "".join(f"{comment}\n" for comment in p.comments)
        self.extra_generation_params = p.extra_generation_params

    def js(self):
        told = {"infotexts": self.infotexts, "extra_generation_params": self.extra_generation_params}
        return json.dumps(told, default=lambda o: None)


class StableDiffusionProcessing:
    token_merging_ratio = token_merging_ratio_hr = 0
    is_hr_pass = enable_hr = False

    def __init__(
        self, prompt="", negative_prompt="", seed=1, steps=5, cfg_scale=5.0, width=128, height=128, batch_size=1, n_iter=1, **more
    ):
        self.prompt, self.negative_prompt, self.seed, self.steps, self.cfg_scale = prompt, negative_prompt, seed, steps, cfg_scale
        self.width, self.height, self.batch_size, self.n_iter = width, height, batch_size, n_iter
        self.sampler_name, self.s_min_uncond, self.denoising_strength = "Euler", 0.0, 0.7
        self.override_settings, self.extra_generation_params, self.comments = {}, {}, {}
        self.scripts, self.script_args, self.sampler, self.iteration = None, (), None, 0
        self.is_api = False
        self.__dict__.update(more)

    @property
    def sd_model(self):
        return shared.sd_model

    def comment(self, text):
        self.comments[text] = 1

    def noise(self, seeds, height, width):
        shape = (4, height // 8, width // 8)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def image_conditioning(self, x):
        hybrid = getattr(self.sd_model.model, "conditioning_key", "") == "hybrid"
        return torch.ones(x.shape[0], 5, *x.shape[-2:]) if hybrid else torch.zeros(x.shape[0], 5, 1, 1)

    def setup_conds(self):
        model, steps = self.sd_model, self.steps
        self.c = prompt_parser.get_multicond_learned_conditioning(model, self.prompts, steps)
        self.uc = prompt_parser.get_learned_conditioning(model, self.negative_prompts, steps)

    def before_sampling(self, x, noise):
        self.scripts.process_before_every_sampling(self, x=x, noise=noise, c=self.c, uc=self.uc)

    def init(self):
        pass


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    hr_scale, hr_second_pass_steps, hr_model, hr_sampler_name, hr_prompt, firstpass_image = 2.0, 0, None, None, None, None

    def sample(self, seeds):
        self.sampler = sd_samplers_common.Sampler(self.sampler_name)
        samples = x = self.noise(seeds, self.height, self.width)
        if self.firstpass_image is None:
            self.before_sampling(x, x)
            samples = self.sampler.sample(self, x, self.c, self.uc, self.image_conditioning(x))
        if not self.enable_hr or shared.state.interrupted:
            return samples
        if self.hr_model is not None:
            sd_models.switch_to(self.hr_model)
        self.is_hr_pass = True
        self.sampler = sd_samplers_common.Sampler(self.hr_sampler_name or self.sampler_name)
        self.prompts = [self.hr_prompt or prompt for prompt in self.prompts]
        self.setup_conds()
        samples = F.interpolate(samples, scale_factor=self.hr_scale)
        shared.state.nextjob()
        noise = self.noise(seeds, samples.shape[2] * 8, samples.shape[3] * 8)
        sd_models.apply_token_merging(self.sd_model, self.token_merging_ratio_hr or shared.opts.token_merging_ratio_hr or ratio_of(self))
        self.scripts.before_hr(self)
        self.before_sampling(samples, noise)
        steps = self.hr_second_pass_steps or self.steps
        samples = self.sampler.sample_img2img(self, samples, noise, self.c, self.uc, steps, self.image_conditioning(samples))
        sd_models.apply_token_merging(self.sd_model, ratio_of(self))
        self.is_hr_pass = False
        return samples


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    def init(self):
        # One sampler for all iterations.
        self.sampler = sd_samplers_common.Sampler(self.sampler_name)
        self.init_latent = torch.cat([self.encoded() for _ in range(self.batch_size)])

    def encoded(self):
        """Each picture by itself, with noise of the process's own generator."""
        x, noise = torch.zeros(1, 4, self.height // 8, self.width // 8) + 0.3, self.sd_model.encoder_noise
        return x + noise * torch.randn(x.shape) if noise else x

    def sample(self, seeds):
        noise = self.noise(seeds, self.height, self.width)
        x = self.init_latent[: len(noise)]
        self.before_sampling(x, noise)
        return self.sampler.sample_img2img(self, x, noise, self.c, self.uc, image_conditioning=self.image_conditioning(x))


def ratio_of(p):
    return p.token_merging_ratio or shared.opts.token_merging_ratio


def create_infotext(p, index=0):
    # Lists are for the pictures of a batch, in their order.
    own = {key: value[index] if isinstance(value, list) else value for key, value in p.extra_generation_params.items()}
    prompt, seed = (p.all_prompts[index], p.all_seeds[index]) if isinstance(p.prompt, list) else (p.all_prompts[0], p.seed)
    params = {"Steps": p.steps, "Sampler": p.sampler_name, "CFG scale": p.cfg_scale, "Seed": seed, "Size": f"{p.width}x{p.height}"}
    params |= {key: value for key, value in own.items() if value is not None}
    words = [key if key == value else f"{key}: {infotext_utils.quote(value)}" for key, value in params.items()]
    negative = f"Negative prompt: {p.negative_prompts[0]}\n" if p.negative_prompts[0] else ""
    return f"{prompt}\n{negative}" + ", ".join(words)


def fix_seed(p):
    if p.seed == -1:
        p.seed = random.randrange(4294967294)


def process_images(p):
    p.scripts.before_process(p)
    before = {key: getattr(shared.opts, key) for key in p.override_settings}
    try:
        for key, value in p.override_settings.items():
            shared.opts.set(key, value, is_api=True, run_callbacks=False)
        sd_models.apply_token_merging(shared.sd_model, ratio_of(p))
        return process_images_inner(p)
    finally:
        sd_models.apply_token_merging(shared.sd_model, 0)
        for key, value in before.items():
            setattr(shared.opts, key, value)


def process_images_inner(p):
    total = p.batch_size * p.n_iter
    p.all_prompts = [p.prompt] * total if isinstance(p.prompt, str) else list(p.prompt)
    styles = getattr(p, "styles", None) or ()
    styled = shared.prompt_styles
    p.all_prompts = [styled.apply_styles_to_prompt(prompt, styles) for prompt in p.all_prompts]
    p.all_seeds = p.seed if isinstance(p.seed, list) else [p.seed + i for i in range(len(p.all_prompts))]
    p.scripts.process(p)
    images, infotexts = [], []
    with torch.no_grad():
        p.init()
        for n in range(p.n_iter):
            shared.state.skipped = False
            if shared.state.interrupted or shared.state.stopping_generation:
                break
            p.iteration = n
            batch = slice(n * p.batch_size, (n + 1) * p.batch_size)
            p.prompts, p.seeds = p.all_prompts[batch], p.all_seeds[batch]
            p.prompts = [extra_networks.parse_prompt(prompt)[0] for prompt in p.prompts]
            p.negative_prompts = [styled.apply_negative_styles_to_prompt(p.negative_prompt, styles)] * len(p.prompts)
            told = {"batch_number": n, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.seeds}
            p.scripts.before_process_batch(p, **told)
            p.scripts.process_batch(p, **told)
            p.setup_conds()
            if n == 0:
                Path(paths.data_path, "params.txt").write_text(create_infotext(p), encoding="utf-8")
            samples = p.sample(p.seeds)
            after = PostSampleArgs(samples)
            p.scripts.post_sample(p, after)
            decoded = after.samples.clamp(-3, 3)
            shared.state.nextjob()
            p.scripts.postprocess_batch(p, images=decoded, batch_number=n)
            listed = PostprocessBatchListArgs(list(decoded))
            p.scripts.postprocess_batch_list(p, listed, batch_number=n)
            for i, latent in enumerate(listed.images):
                pixels = ((latent[:3] + 3) * 42.5).round().byte().permute(1, 2, 0).contiguous()
                holder = PostprocessImageArgs(Image.fromarray(pixels.numpy()))
                p.scripts.postprocess_image(p, holder)
                p.scripts.postprocess_image_after_composite(p, holder)
                infotexts.append(create_infotext(p, i))
                holder.image.info["parameters"] = infotexts[-1]
                images.append(holder.image)
    processed = Processed(p, images, infotexts)
    p.scripts.postprocess(p, processed)
    if errors.reports and not p.scripts.tolerant:
        message, error = errors.reports[-1]
        raise AssertionError(message) from error
    return processed
