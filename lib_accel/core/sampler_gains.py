"""What samplers make of an error in one call's prediction, from their formulas.

A gain is by how much the latents are off in the end of a step and the next, per error of the denoised picture in call ``j``. sigmas: the
noise levels of the pass, one for every step and the last that it goes down to (mostly 0). An error of the predicted noise is ``sigmas[j]``
times as large in the picture.

Sources: DPM-Solver++ (Lu et al., arXiv 2211.01095); Elucidating the Design Space (Karras et al., arXiv 2206.00364, samplers in sigma);
refined exponential solver (Zhang and Chen, arXiv 2308.02157); ER-SDE-Solver (Cui et al., arXiv 2309.06169).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

# Where the second order of DPM++ makes more than this of what a plain step makes of an error, one forecast call ruins the picture.
STEEP = 2.15


def euler(sigmas: Sequence[float], j: int, eta: float = 0.0) -> float:
    """Euler and DDIM: the part of the way to the picture that the step goes. eta: how much of the noise is drawn anew, 0 to 1."""
    if sigmas[j] <= 0:
        # Lists that people give may end in a step without noise, which goes nowhere.
        return 0.0
    return 1 - downward(sigmas[j], sigmas[j + 1], eta) / sigmas[j]


def downward(sigma: float, after: float, eta: float) -> float:
    """The noise level that an ancestral step goes down to before it adds noise up to ``after``."""
    if after <= 0 or eta <= 0:
        return after
    up = min(after, eta * math.sqrt(max(after**2 * (sigma**2 - after**2) / sigma**2, 0.0)))
    return math.sqrt(after**2 - up**2)


def dpmpp_2m(sigmas: Sequence[float], j: int, eta: float = 0.0) -> float:
    """DPM++ 2M: what the call weighs in its own step and, as the older one, in the next. eta: 1 for the SDE."""
    if sigmas[j + 1] <= 0:
        return 1.0
    gain = _part(sigmas, j, eta) * (1 + _older(sigmas, j))
    if j + 2 < len(sigmas) and sigmas[j + 2] > 0:
        gain += _part(sigmas, j + 1, eta) * _older(sigmas, j + 1)
    return gain


def lms(sigmas: Sequence[float], j: int, eta: float = 0.0) -> float:
    """LMS of order 4: the sizes of the coefficients of step ``j``."""
    if sigmas[j] <= 0:
        return 0.0
    order = min(j + 1, 4)
    return sum(abs(_lagrange_area(sigmas, j, order, k)) for k in range(order)) / sigmas[j]


def res_multistep(sigmas: Sequence[float], j: int, eta: float = 0.0) -> float:
    """Res Multistep: what the call weighs in its own step and, as the older one, in the next."""
    return _over_steps(res_weights, sigmas, j)


def res_weights(sigmas: Sequence[float], j: int) -> tuple[float, ...]:
    """What the pictures of call ``j`` and of the one before weigh in step ``j`` of Res Multistep."""
    h = math.log(sigmas[j] / sigmas[j + 1])
    part = -math.expm1(-h)
    if j == 0 or sigmas[j - 1] <= sigmas[j] or math.isinf(sigmas[j - 1]):
        return (part,)
    older = (h - part) / math.log(sigmas[j - 1] / sigmas[j])
    return part + older, -older


def er_sde(sigmas: Sequence[float], j: int, eta: float = 0.0) -> float:
    """ER SDE of order 3: what the call weighs in its own step and, as the older one, in the next."""
    return _over_steps(er_sde_weights, sigmas, j)


def er_scale(sigma: float) -> float:
    """The scale of ER SDE's noise (its published default)."""
    return sigma * (math.exp(sigma**0.3) + 10)


def er_sde_weights(sigmas: Sequence[float], j: int) -> tuple[float, ...]:
    """What the pictures of call ``j`` and of up to two before weigh in step ``j`` of ER SDE.

    Its integrals are sums over 200 points, as in the hosts.
    """
    sigma, after = sigmas[j], sigmas[j + 1]
    first = 1 - er_scale(after) / er_scale(sigma)
    if j == 0 or sigmas[j - 1] <= sigma or math.isinf(sigmas[j - 1]):
        return (first,)
    width = (sigma - after) / 200
    points = [after + place * width for place in range(200)]
    slope = after - sigma + er_scale(after) * width * sum(1 / er_scale(point) for point in points)
    slope /= sigma - sigmas[j - 1]
    if j == 1 or math.isinf(sigmas[j - 2]):
        return first + slope, -slope
    bend = (after - sigma) ** 2 / 2 + er_scale(after) * width * sum((point - sigma) / er_scale(point) for point in points)
    bend /= (sigma - sigmas[j - 2]) / 2
    now, before = bend / (sigma - sigmas[j - 1]), bend / (sigmas[j - 1] - sigmas[j - 2])
    return first + slope + now, -slope - now - before, before


def _over_steps(weights: Callable[[Sequence[float], int], tuple[float, ...]], sigmas: Sequence[float], j: int) -> float:
    if sigmas[j + 1] <= 0:
        return 1.0
    gain = abs(weights(sigmas, j)[0])
    if j + 2 < len(sigmas) and sigmas[j + 2] > 0:
        gain += abs(weights(sigmas, j + 1)[1])
    return gain


def is_steep(sigmas: Sequence[float], last: int = 3) -> bool:
    """Whether the ``last`` steps of second-order DPM++ make much more of an error than plain steps would; not on Karras' levels."""
    steps = len(sigmas) - 1
    return any(dpmpp_2m(sigmas, j) > STEEP * euler(sigmas, j) for j in range(max(steps - last, 0), steps) if sigmas[j + 1] < sigmas[j])


def _part(sigmas: Sequence[float], j: int, eta: float) -> float:
    """1 - exp(-(1 + eta) h), h being the step in -log sigma."""
    return 1 - (sigmas[j + 1] / sigmas[j]) ** (1 + eta)


def _older(sigmas: Sequence[float], j: int) -> float:
    """By how much step ``j`` extrapolates from the call before: 1 / 2r with r = h(j-1) / h(j); 0 in the first step."""
    if j == 0 or sigmas[j - 1] <= sigmas[j] or math.isinf(sigmas[j - 1]):
        return 0.0
    return 0.5 * math.log(sigmas[j] / sigmas[j + 1]) / math.log(sigmas[j - 1] / sigmas[j])


def _lagrange_area(sigmas: Sequence[float], j: int, order: int, k: int) -> float:
    """The integral over step ``j`` of the polynomial that is 1 at ``sigmas[j - k]`` and 0 at the other calls in use.

    Gauss' two points are exact for the cubics that order 4 needs.
    """
    start, end = sigmas[j], sigmas[j + 1]
    middle, half = (start + end) / 2, (end - start) / 2
    area = 0.0
    for point in (middle - half / math.sqrt(3), middle + half / math.sqrt(3)):
        value = 1.0
        for other in range(order):
            if other != k:
                value *= (point - sigmas[j - other]) / (sigmas[j - k] - sigmas[j - other])
        area += half * value
    return area
