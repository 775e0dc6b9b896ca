"""What Prompt-to-Prompt says of edits that it left out."""

from __future__ import annotations

from ..core.reasons import Reason

NO_STEP = Reason.of("no_step", "no step is in a window of an edit")
UNKNOWN_ROWS = Reason.of("rows_unknown", "it is not known which rows are conditional")
NO_LAYER = Reason.of("no_layer", "none of the chosen layers is in this U-Net")
LOCAL_BLEND = Reason.of("local_blend", "local blend")
NO_SOURCE = Reason.of("no_source", "the source picture was in neither this call nor an earlier one")


def nothing_edited(why: Reason) -> Reason:
    """Why no row was edited."""
    return Reason.of("nothing_edited", "nothing edited: {why}", why=why)


def kept(what: str, why: Reason) -> Reason:
    """Why layers of a kind are as they were."""
    return Reason.of("kept", "{what} kept: {why}", what=what, why=why)
