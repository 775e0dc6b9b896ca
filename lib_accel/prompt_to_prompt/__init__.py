"""Prompt-to-Prompt: editing pictures by editing prompts. The parts, from words to attention:

    tokens      `PromptTokens`: the token stream of a prompt, in chunks of 77, and whose token is whose. A WebUI builds it from its own
                chunks by `PromptTokens.from_chunks` (emphasis, BREAK, textual inversion as they really are), diffusers'
                pipelines by `text.tokens_for(pipe, prompt)`. `split_words` splits a text as `PromptTokens.find` does.
    edits       `Edit` and its kinds `Replace`, `Refine`, `Reweight` (chained by `Edit.then`; kind ``auto``), and `mix`, which aligns two
                streams into a `Mixing`: how the maps of an edited row are made from its source's.
    windows     `window_of`, `windows_of`: fractions, pairs, and windows by word.   layers    which blocks, in words.
    local_blend `LocalBlend`: words that confine an edit; `LocalBlend.aligned(streams)` for the method; masks and blending, pure.
    maps        heat maps of words.

The method `lib_accel.PromptToPrompt` takes edits already aligned, for pictures by their number in the batch. What a host does:

    streams = [PromptTokens.from_chunks(...) for every prompt]      # [0]: the source's; several AND parts: one stream per part
    edits = [ImageEdit(image=k, source=0, mixings=[mix(streams[0], streams[k], edit, cross_replace)], self_replace=0.4) for k, edit ...]
    method = PromptToPrompt(edits, blend=LocalBlend(("circle",), ("square",)).aligned(streams))
    accelerator = Accelerator(unet, method, *others, traits=...)    # where it edits a layer, other methods stand down there
    accelerator.step(index, total, rows)                            # before each step; rows in the order of its U-Net calls:
                                                                    # Row("cond", image, part, weight), then Row("uncond", image), ...
    ... U-Net calls, together or one by one, source rows before edited ones ...
    latents = accelerator.running(PromptToPrompt).blend(latents)    # at the end of a step; [images, channels, H, W]: latents, or x0
    masks = accelerator.running(PromptToPrompt).masks((H, W))       # {image: [H, W] of 0 and 1}, for `composite`; empty before its start
    accelerator.report()                                            # how many layers and steps were edited

Streams of one batch may have different numbers of chunks: `mix` pads the shorter by the empty prompt, as hosts pad texts. `Mixing` fits
texts that a host padded further. `WordError` (a `SettingError`) names the words that a prompt has. Other AND parts than the first take
part in a local blend through columns of their own: `AlignedBlend.columns[image, part]`.

`lib_accel.edit_images` (`editing`) does all of it for diffusers' pipelines.
"""

from ..core.fields import SettingError
from .edits import KINDS, Edit, Mixing, Refine, Replace, Reweight, as_edit, kind_of, mix
from .layers import Layers
from .local_blend import AlignedBlend, LocalBlend, WordColumns, blended, composite, edit_mask, feathered, word_mask
from .maps import heat_picture
from .segmenting import segmented, tokenize
from .splitting import split_words
from .tokens import PromptTokens, WordError
from .windows import window_of, windows_of

__all__ = [
    "KINDS",
    "AlignedBlend",
    "Edit",
    "Layers",
    "LocalBlend",
    "Mixing",
    "PromptTokens",
    "Refine",
    "Replace",
    "Reweight",
    "SettingError",
    "WordColumns",
    "WordError",
    "as_edit",
    "blended",
    "composite",
    "edit_mask",
    "feathered",
    "heat_picture",
    "kind_of",
    "mix",
    "segmented",
    "split_words",
    "tokenize",
    "window_of",
    "windows_of",
    "word_mask",
]
