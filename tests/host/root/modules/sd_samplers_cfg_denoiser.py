"""Guidance: which rows a step holds and how they are divided among U-Net calls (HOST.md 4.2 and 4.3)."""

import torch
from torch import nn

from modules import prompt_parser, sd_samplers_common, shared
from modules.prompt_parser import cat, each
from modules.script_callbacks import AfterCFGCallbackParams, CFGDenoisedParams, CFGDenoiserParams, dispatch


class Inner(nn.Module):
    """What a denoiser calls: denoised rows. The timestep falls with sigma."""

    def forward(self, x, sigma, cond):
        sigma_ = sigma.view(-1, 1, 1, 1)
        return x - shared.sd_model.apply_model(x * (1 + sigma_**2).rsqrt(), sigma / 14.0 * 999, cond) * sigma_ * 0.1


class CFGDenoiser(nn.Module):
    # Older hosts do not tell their callbacks who calls.
    tells_denoiser = True

    def __init__(self, sampler):
        super().__init__()
        self.sampler, self.p, self.step, self.init_latent = sampler, None, 0, None
        self.steps = self.total_steps = self.image_cfg_scale = None
        self.inner_model = Inner()

    def combine_denoised(self, x_out, conds_list, uncond, cond_scale):
        unconditional = x_out[-uncond.shape[0] :]
        denoised = unconditional.clone()
        for i, parts in enumerate(conds_list):
            for row, weight in parts:
                denoised[i] += (x_out[row] - unconditional[i]) * (weight * cond_scale)
        return denoised

    def _combine_edit(self, x_out, cond_scale):
        cond, image, uncond = x_out.chunk(3)
        return uncond + cond_scale * (cond - image) + self.image_cfg_scale * (image - uncond)

    def _skips_uncond(self, sigma, s_min_uncond, edit):
        opts = shared.opts
        if opts.skip_early_cond != 0 and self.step / self.total_steps <= opts.skip_early_cond:
            return True
        return bool((self.step % 2 or opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond and not edit)

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        if sd_samplers_common.apply_refiner(self):
            cond, uncond = self.sampler.sampler_extra_args["cond"], self.sampler.sampler_extra_args["uncond"]
        edit = shared.sd_model.cond_stage_key == "edit" and self.image_cfg_scale not in (None, 1.0)
        conds_list, text = prompt_parser.reconstruct_multicond_batch(cond, self.step)
        negative = prompt_parser.reconstruct_cond_batch(uncond, self.step)
        counts, batch = torch.tensor([len(parts) for parts in conds_list]), len(conds_list)

        def rows(tensor, last=None):
            return torch.cat([tensor.repeat_interleave(counts, 0), *([tensor] if edit else []), tensor if last is None else last])

        steps = shared.state.sampling_step, shared.state.sampling_steps
        told = {"denoiser": self} if self.tells_denoiser else {}
        image_in = rows(image_cond, torch.zeros_like(image_cond) if edit else None)
        params = CFGDenoiserParams(rows(x), image_in, rows(sigma), *steps, text, negative, **told)
        dispatch("cfg_denoiser", params)
        x_in, sigma_in, image_in, text, negative = params.x, params.sigma, params.image_cond, params.text_cond, params.text_uncond

        skips = self._skips_uncond(sigma, s_min_uncond, edit)
        if skips:
            # Not the image rows: the host forgets them.
            x_in, sigma_in = x_in[:-batch], sigma_in[:-batch]
        if shared.opts.pad_cond_uncond and text.shape[1] != negative.shape[1]:
            longest = max(text.shape[1], negative.shape[1])
            text, negative = prompt_parser.lengthened(text, longest), prompt_parser.lengthened(negative, longest)
        x_out = self._predict_all(x_in, sigma_in, image_in, text, negative, batch, skips, edit)
        if skips:
            x_out = torch.cat([x_out, torch.stack([x_out[parts[0][0]] for parts in conds_list])])
        dispatch("cfg_denoised", CFGDenoisedParams(x_out, *steps, self.inner_model))
        if edit:
            denoised = self._combine_edit(x_out, cond_scale)
        else:
            denoised = self.combine_denoised(x_out, conds_list, negative, 1.0 if skips else cond_scale)
        self.sampler.last_latent = shared.state.current_latent = denoised
        after = AfterCFGCallbackParams(denoised, *steps)
        dispatch("cfg_after_cfg", after)
        self.step += 1
        return after.x

    def _predict_all(self, x, sigma, image, text, negative, batch, skips, edit):
        together = shared.opts.batch_cond_uncond
        if skips:
            groups = [text]
        elif text.shape[1] == negative.shape[1]:
            groups = [cat(text, *([negative] if edit else []), negative)]
        else:
            groups = [text, negative]
        whole = together and len(groups) == 1
        size = x.shape[0] if whole else batch * (2 if together else 1)
        outputs, cond = [], groups[0]
        for begin in range(0, cond.shape[0], size):
            part = each(lambda tensor, begin=begin: tensor[begin : begin + size], cond)
            rows = slice(begin, begin + part.shape[0])
            outputs.append(self.inner_model(x[rows], sigma[rows], cond={"c_crossattn": part, "c_concat": image if whole else image[rows]}))
        if len(groups) > 1:
            # All rows where it holds none: the host counts from the end.
            rows = slice(-negative.shape[0], None)
            outputs.append(self.inner_model(x[rows], sigma[rows], cond={"c_crossattn": negative, "c_concat": image[rows]}))
        return torch.cat(outputs)
