"""Which transformer blocks an edit acts on, in words."""

from __future__ import annotations

import re

from ..core.fields import SettingError

PLACES = ("down", "mid", "up")
_TERM = re.compile(r"(=?)1/(\d+)|(\d+)")
HINT = (
    "'all', or of 'down', 'mid', 'up', '1/4' (a quarter of the latents' side and coarser), '=1/4' (just that), "
    "'256' (at most so many tokens), joined by +"
)


class Layers:
    """A choice of blocks. text: terms joined by ``+``, of which one must hold: ``all``, ``down``, ``mid``, ``up``, ``1/4`` (blocks at a
    quarter of the latents' side and coarser), ``=1/4`` (that alone), ``256`` (grids of at most 256 tokens). name: the setting, for
    sentences. SettingError for others.
    """

    def __init__(self, name: str, text: str) -> None:
        self.terms = tuple(term.strip() for term in text.split("+")) if isinstance(text, str) else ()
        for term in self.terms or ("",):
            found = _TERM.fullmatch(term)
            fine = found and (found[3] is not None or _is_power(int(found[2])))
            if not (term in ("all", *PLACES) or fine):
                raise SettingError(f"{name} is {text!r}; it must be {HINT}.")

    def hold(self, place: str, level: int, tokens: int | None = None, coarsest: int | None = None) -> bool:
        """Whether a block is chosen. place: down | mid | up. level: halvings of the latents. tokens: its grid's, None while unknown.

        coarsest: the U-Net's coarsest level, for those who need some grid: it is chosen, too, where all have more tokens than a term says.
        """
        return any(self._holds(term, place, level, tokens, coarsest) for term in self.terms)

    @staticmethod
    def _holds(term: str, place: str, level: int, tokens: int | None, coarsest: int | None) -> bool:
        if term in ("all", place):
            return True
        found = _TERM.fullmatch(term)
        if found is None:
            return False
        if found[3] is not None:
            return tokens is None or tokens <= int(found[3]) or level == coarsest
        wanted = int(found[2]).bit_length() - 1
        return level == wanted if found[1] else level >= wanted


def _is_power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
