"""The host's file of defaults, `ui-config.json`: what it says of a labelled component stands on the page from the first start on."""

import gradio as gr

FIELDS = {gr.Slider: ("value", "minimum", "maximum", "step")} | dict.fromkeys(
    (gr.Radio, gr.Checkbox, gr.Textbox, gr.Number, gr.Dropdown), ("value",)
)


def add_block(block, path, stored):
    """Apply ``stored`` (key -> value) to everything in ``block``, and store what it does not know."""
    for child in getattr(block, "children", ()):
        add_block(child, path, stored)
    source = getattr(block, "custom_script_source", None)
    for field in FIELDS.get(type(block), ()) if getattr(block, "label", None) else ():
        key = f"{f'customscript/{source}/' if source else ''}{path}/{block.label}/{field}"
        choices = [choice[0] if isinstance(choice, tuple) else choice for choice in getattr(block, "choices", ())]
        if getattr(block, "do_not_save_to_config", False):
            continue
        if stored.setdefault(key, getattr(block, field)) in choices or not choices:
            setattr(block, field, stored[key])
