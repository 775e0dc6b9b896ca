"""A grid over axes: every cell is a shallow copy of the job."""

from copy import copy

import gradio as gr
import modules.scripts as scripts
from modules import errors
from modules.processing import Processed, process_images


def apply_field(field):
    def apply(p, x, xs):
        setattr(p, field, x)

    return apply


class AxisOption:
    def __init__(self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None):
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


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
            values = [option.type(value.strip()) for value in values.split(",")]
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
