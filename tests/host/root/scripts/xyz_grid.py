"""A grid over axes: every cell is a shallow copy of the job."""

import re
from copy import copy

import gradio as gr
import modules.scripts as scripts
import numpy as np
from modules import errors
from modules.processing import Processed, process_images


def apply_field(field):
    def apply(p, x, xs):
        setattr(p, field, x)

    return apply


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices
        self.prepare = prepare


_NUMBER = r"\s*([+-]?\s*\d+(?:.\d*)?)\s*"
re_range_float = re.compile(rf"{_NUMBER}-{_NUMBER}(?:\(([+-]\d+(?:.\d*)?)\s*\))?\s*")
re_range_count_float = re.compile(rf"{_NUMBER}-{_NUMBER}(?:\[(\d+(?:.\d*)?)\s*])?\s*")


def csv_string_to_list_strip(text):
    return [value.strip() for value in text.split(",")]


def ranges_written_out(values):
    """A range of fractions has what `arange` makes of it, which may be one past the end."""
    found = []
    for value in values:
        by_step, by_count = re_range_float.fullmatch(value), re_range_count_float.fullmatch(value)
        if by_step:
            start, end, step = (float(given) for given in by_step.groups("1"))
            found += np.arange(start, end + step, step).tolist()
        elif by_count:
            start, end, count = by_count.groups("1")
            found += np.linspace(float(start), float(end), int(count)).tolist()
        elif value:
            found.append(value)
    return found


axis_options = [AxisOption("Nothing", str, lambda p, x, xs: None), AxisOption("Steps", int, apply_field("steps"))]


class Script(scripts.Script):
    def title(self):
        return "X/Y/Z plot"

    def ui(self, is_img2img):
        # What is added later is not seen.
        self.current_axis_options = list(axis_options)
        labels = [option.label for option in self.current_axis_options]
        return [gr.Dropdown(labels, label=f"{axis} type", type="index") for axis in "XY"] + [
            gr.Textbox(label=f"{axis} values") for axis in "XY"
        ]

    def run(self, p, x_type, y_type, x_values, y_values):
        axes = []
        for option, values in ((self.current_axis_options[x_type], x_values), (self.current_axis_options[y_type], y_values)):
            values = option.prepare(values) if option.prepare is not None else csv_string_to_list_strip(values)
            # Compared as the host does.
            values = [option.type(value) for value in (ranges_written_out(values) if option.type == float else values)]  # noqa: E721
            if option.confirm:
                option.confirm(p, values)
            axes.append((option, values))
        (x_option, xs), (y_option, ys) = axes
        images, infotexts = [], []
        for y in ys:
            for x in xs:
                cell = copy(p)
                x_option.apply(cell, x, xs)
                y_option.apply(cell, y, ys)
                try:
                    done = process_images(cell)
                except Exception as error:
                    errors.display(error, "a cell")
                    continue
                images += done.images
                infotexts += done.infotexts
        return Processed(p, images, infotexts)
