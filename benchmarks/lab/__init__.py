"""What Accel is compared with: other libraries, and the limits of what can be won. `bench` and `quality` find it here."""

from functools import partial

from lib_accel.cli.lab import Peer

from .block_caches import FirstBlock, Mag, TaylorSeer, first_block_cache, mag_cache, taylorseer
from .limits import half_the_rows, no_cross_attention, no_self_attention
from .merging import tomesd_merging
from .published_tgate import published_tgate
from .sada import sada
from .spectrum import spectrum, spectrum_kinds
from .step_caches import deepcache, deepcache_kinds, faster_cache, pyramid_attention_broadcast


def _of_one_kind(steps: int) -> list[tuple[int, int]]:
    return [(0, steps)]


PEERS = {
    "tomesd": Peer(tomesd_merging, _of_one_kind),
    "published-tgate": Peer(published_tgate),
    "published-tgate-self": Peer(partial(published_tgate, with_self=True)),
    "published-deepcache": Peer(deepcache, deepcache_kinds),
    "pyramid-attention": Peer(pyramid_attention_broadcast),
    "faster-cache": Peer(faster_cache),
    "first-block-cache": Peer(first_block_cache, settings=FirstBlock),
    "taylorseer": Peer(taylorseer, settings=TaylorSeer),
    "mag-cache": Peer(mag_cache, settings=Mag),
    "spectrum": Peer(spectrum, spectrum_kinds),
    "sada": Peer(sada),
    "no-self-attention": Peer(no_self_attention, _of_one_kind, limit=True),
    "no-cross-attention": Peer(no_cross_attention, _of_one_kind, limit=True),
    "half-the-rows": Peer(half_the_rows, _of_one_kind, limit=True),
}
