"""The steps of one pass in a host of the Forge family: told to its accelerator when the CFG call is known, run on the rows that are wanted.

The host's callback `on_cfg_denoiser` comes too early to say what a step holds: the scale, the host's own skipping and the patches of others
are known to the last conditioning modifier, which is ours. Rows are left out before the host batches, as the host does where it skips the
negative prompt itself: the scale becomes 1.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...core.errors import strict
from ...core.forge_models import patcher_of, prediction_type
from ...core.method import CALL, ROWS, STAGES, Method
from ...core.noise import sigma_of_flow
from ...core.reasons import Reason
from ...core.rows import Row, RowPlan, shares_of
from ...engine.accelerator import Accelerator
from ...methods.registry import of_known_rows
from . import facts, forge_call
from .forge_call import CfgCall
from .forge_patch import Call, Patch
from .levels import Levels
from .neighbours import changing_loras
from .rows import settled_from
from .steps import LEFT_TO_HOST

NOT_SEEN = Reason.of("sampled_elsewhere", "another extension samples in its own way, so it is not known which picture each row belongs to")
MORE_CALLS = Reason.of("calls_of_others", "another extension runs the U-Net in calls of its own")
BESIDE = Reason.of("beside_spectrum", "Accel's other methods act in the calls that the WebUI's Spectrum runs")


class ForgeSteps:
    """See the module. methods: those of the pass. drops_at_one: whether guidance at scale 1 may be dropped. failed: told of our errors."""

    def __init__(
        self, accelerator: Accelerator, methods: Sequence[Method], drops_at_one: bool, p: Any, failed: Callable[[Exception], None]
    ) -> None:
        self._accelerator, self._drops_at_one, self._failed = accelerator, drops_at_one, failed
        self._drops = any(method.declaration.known_rows for method in methods)
        self._leaves_out = any(method.declaration.acts_on == ROWS for method in methods)
        self._acts_inside = any(method.runner().acts_inside and method.declaration.acts_on != STAGES for method in methods)
        self._levels = Levels() if any(method.declaration.sigma(method) for method in methods) else None
        self._may_skip = any(method.declaration.acts_on == CALL for method in methods)
        self._denoiser: Any = None
        self._params: Any = None
        self._expected: int | None = None
        self._seen = False
        # Whether Spectrum is at work, how many steps it forecast, and of how many.
        self._by_spectrum, self._forecast_by_it, self._steps = False, 0, 0
        self.notes: set[str] = set()
        self._patch = Patch(_modifier(weakref.ref(self)))
        self._patch.see_to(p.sd_model)

    def begin(self, denoiser: Any, params: Any) -> None:
        """The host is about to run a step: its callback `on_cfg_denoiser`."""
        self._denoiser, self._params, self._expected, self._seen = denoiser, params, None, False
        self._patch.see_to(denoiser.p.sd_model)
        # For whoever calls the U-Net before the modifier, or in its place.
        self._accelerator.step(denoiser.step, _total(denoiser), None)

    def at_call(self, call: Call) -> Call:
        """The conditioning modifier: the CFG call as it is to be."""
        if self._denoiser is None:
            return call
        try:
            return self._planned(call)
        except Exception as error:
            self._denoiser = None
            self._failed(error)
            if strict():
                raise
            return call

    def end(self) -> str | None:
        """The step's U-Net calls are over. A clause when they were not as they were expected to be."""
        self._denoiser = self._params = None
        if not self._seen:
            self._accelerator.switch_off(of_known_rows(), NOT_SEEN)
            return NOT_SEEN
        self._steps += 1
        self._forecast_by_it += self._by_spectrum and not self._accelerator.rows_taken
        if self._expected is None or self._accelerator.rows_taken <= self._expected:
            # Fewer: a wrapper forecast some of them.
            return None
        return MORE_CALLS

    def restore(self) -> None:
        """Take back what a step put on the host, however it ended."""
        self._denoiser = self._params = None

    def close(self) -> None:
        """The pass is over: nothing of ours is left on the host."""
        self.restore()
        self._patch.take_off()
        if self._forecast_by_it:
            sentence = "Spectrum forecast {count} of {steps} steps"
            self.notes.add(Reason.of("spectrum_forecast", sentence, count=self._forecast_by_it, steps=self._steps))

    # -- inside ------------------------------------------------------------------------------------------------------------

    def _planned(self, call: Call) -> Call:
        _, x, sigmas, uncond, cond, cond_scale, options, _ = call
        denoiser, sigma = self._denoiser, float(sigmas[0])
        self._seen = True
        cfg = forge_call.read(denoiser, x, sigma, uncond, cond, cond_scale, options)
        index, total = denoiser.step, _total(denoiser)
        if cfg.wrapper is not None and not cfg.by_spectrum:
            self._accelerator.switch_off(of_known_rows(), Reason.of("wrapped", "{home} wraps the U-Net's calls", home=cfg.wrapper))
            self._accelerator.step(index, total, None)
            return call
        self._by_spectrum = cfg.by_spectrum
        if cfg.by_spectrum:
            self._accelerator.switch_off(_forecasting(), forge_call.BESIDE_SPECTRUM)
            if self._acts_inside:
                self.notes.add(BESIDE)
        rows = cfg.rows
        self._expected = len(rows)
        if not self._drops:
            self._accelerator.step(index, total, rows)
            return call
        neighbour = cfg.neighbour()
        # Where the host skips the negative prompt itself the pass goes on at its scale.
        scale = cfg.scale if cfg.guided else facts.scale_of(denoiser.p) or cfg.scale
        told = {
            "guidance": scale if self._drops_at_one and abs(cfg.total - 1) <= 1e-6 else None,
            "settled": settled_from(denoiser, total),
            "guided_because": forge_call.CFG_PLUS if getattr(denoiser, "need_last_noise_uncond", False) else neighbour,
            "whole_because": changing_loras(denoiser.p) or neighbour,
            "sigma": sigma_of_flow(sigma) if _is_flow(denoiser) else sigma,
            "state": forge_call.controlnets(patcher_of(denoiser.p.sd_model), sigma),
        }
        if self._levels is not None:
            told |= self._of_sampler(denoiser, scale)
        self._accelerator.step(index, total, rows, **told)
        if not cfg.guided:
            if self._leaves_out and facts.scale_of(denoiser.p) != 1:
                self.notes.add(LEFT_TO_HOST)
            return call
        plan = self._accelerator.row_plan(adds_direction=True)
        if plan is None:
            return call
        changed, rows = self._unguided(call, cfg, plan)
        self._expected = len(rows)
        self._accelerator.step(index, total, rows, dropped=True, **told)
        return changed

    def _of_sampler(self, denoiser: Any, scale: float) -> dict[str, Any]:
        """What is told for methods that go by noise levels, or leave out whole steps; see `Accelerator.step`."""
        sampler, _, sigmas = self._levels.at(denoiser, self._params)
        if sigmas is not None and _is_flow(denoiser):
            sigmas = tuple(sigma_of_flow(noise) for noise in sigmas)
        told: dict[str, Any] = {"sampler": sampler, "sigmas": sigmas}
        if not self._may_skip:
            return told
        return told | {"scales": (scale, None)}

    def _unguided(self, call: Call, cfg: CfgCall, plan: RowPlan) -> tuple[Call, list[Row]]:
        """The call without the rows that ``plan`` drops, and the rows that are left.

        At scale 1 the host runs what it is given as the prompt alone. It multiplies that by the sum of the weights, so they are made to
        add up to 1; a direction that guides all the same is added to the finished picture, before masks are laid over it.
        """
        model, x, sigma, uncond, cond, scale, options, seed = call
        rows = [cfg.rows[index] for index in plan.keep]
        directions = [self._accelerator.direction(image) for image in range(cfg.images)]
        if rows[0].role == "uncond":
            cond = [{**part, "strength": 1.0} for part in uncond]
        elif len(cfg.weights) > 1 or cfg.total != 1:
            cond = [{**part, "strength": share} for part, share in zip(cond, shares_of(cfg.weights))]
        if any(direction is not None for direction in directions):
            functions = options.get("sampler_post_cfg_function") or []
            options = {
                **options,
                "sampler_post_cfg_function": [*functions, _guiding(directions, _sigmas(sigma, self._denoiser), scale * cfg.positive - 1)],
            }
        return (model, x, sigma, uncond, cond, 1.0, options, seed), rows


def _modifier(reference: Any) -> Callable[..., Call]:
    def accel_modifier(*call: Any) -> Call:
        steps = reference()
        return call if steps is None else steps.at_call(call)

    return accel_modifier


def _guiding(directions: Sequence[Any], sigma: torch.Tensor, scale: float) -> Callable[[dict[str, Any]], Any]:
    """A post-CFG function. A picture is the latents less sigma times the noise, so a direction of the noise counts the other way."""

    def accel_direction(given: dict[str, Any]) -> torch.Tensor:
        pictures = given["denoised"].clone()
        for image, direction in enumerate(directions):
            if direction is not None and direction.shape[1:] == pictures.shape[2:]:
                pictures[image, : direction.shape[0]] -= (scale * sigma[image].to(direction) * direction).to(pictures)
        return pictures

    return accel_direction


def _is_flow(denoiser: Any) -> bool:
    """Whether the model's latents are those of flow matching: then the host's sigma is how much of them is noise."""
    return prediction_type(denoiser.p.sd_model) == "const"


def _sigmas(sigma: torch.Tensor, denoiser: Any) -> torch.Tensor:
    """Noise / signal of each picture."""
    return sigma / (1 - sigma) if _is_flow(denoiser) else sigma


def _forecasting() -> tuple[type[Method], ...]:
    """Methods that serve whole calls or stages, from what earlier calls returned."""
    return tuple(method for method in of_known_rows() if method.declaration.acts_on != ROWS)


def _total(denoiser: Any) -> int:
    return max(int(denoiser.total_steps), 1)
