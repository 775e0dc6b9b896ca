"""The script "Prompt-to-Prompt": grids of edits of one picture, in the WebUI. The parts, from words to pictures:

lines       the grammar of the edit lines.      values    windows, seeds and weights as they are typed.
controls    the script's settings: labels, hints, PNG info, reading them.
grid        what is drawn: axes, cells, batches.
host_text   the host's prompts: their tokens, what is refused, padding to equal length.
checking    everything that can be wrong, told before anything is drawn.
batch       one batch of the host at work: the method for its passes, local blend, masks, heat maps.
runs        the host's jobs, one per batch.     result    the pictures, their grids, PNG info and the line below.
preview     the words of the prompts as chips.  script, ui    the entry in the Script menu.
"""
