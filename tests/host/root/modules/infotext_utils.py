"""PNG info: how values are written and read, and what a paste does with a tab's fields."""

import json
import re

import gradio as gr

from modules import shared

# Keys: letters, digits, _, space, - and /, two at least. Values: up to a comma, or a JSON string.
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
TWO_NUMBERS = re.compile(r"(\d+)x(\d+)")


class PasteField(tuple):
    def __new__(cls, component, target, *, api=None):
        return super().__new__(cls, (component, target))

    def __init__(self, component, target, *, api=None):
        self.component, self.api = component, api
        self.label = target if isinstance(target, str) else None
        self.function = None if isinstance(target, str) else target


def quote(text):
    return json.dumps(text, ensure_ascii=False) if any(c in str(text) for c in ",:\n") else text


def unquote(text):
    if len(text) < 2 or not (text[0] == text[-1] == '"'):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_generation_parameters(text, skip_fields=None):
    *prompt, last = text.strip().split("\n")
    if len(PARAMETER.findall(last)) < 3:
        prompt, last = [*prompt, last], ""
    whole, _, negative = "\n".join(prompt).partition("Negative prompt: ")
    found = {"Prompt": whole.strip(), "Negative prompt": negative.strip()}
    for key, raw in PARAMETER.findall(last):
        if not raw:
            # The host looks at the first letter of each, and drops a value without one.
            continue
        value = unquote(raw)
        sides = TWO_NUMBERS.fullmatch(value) if isinstance(value, str) else None
        if sides:
            found[f"{key}-1"], found[f"{key}-2"] = sides.groups()
        else:
            found[key] = value
    if shared.opts.infotext_styles != "Ignore":
        styles, *prompts = shared.prompt_styles.extract_styles_from_prompt(found["Prompt"], found["Negative prompt"])
        found["Prompt"], found["Negative prompt"] = prompts
        if shared.opts.infotext_styles == "Apply" or (shared.opts.infotext_styles == "Apply if any" and styles):
            found["Styles array"] = styles
    return found


def pasted(fields, text):
    """What a paste of ``text`` sets the components of ``fields`` to: component -> value, unchanged ones left out."""
    params = parse_generation_parameters(text)
    values = {}
    for component, target in fields:
        value = target(params) if callable(target) else params.get(target)
        if isinstance(value, type(gr.update())):
            value = value.get("value")
        elif value is not None:
            kind = type(component.value)
            value = False if kind is bool and value == "False" else float(value) if kind is int else kind(value)
        if value is not None:
            values[component] = value
    return values
