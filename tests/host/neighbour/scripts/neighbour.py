"""Somebody else's always-on scripts: one loads before ours, and both shift the positions of all arguments."""

import gradio as gr
import modules.scripts as scripts


class Seed(scripts.Script):
    section = "accordions"

    def title(self):
        return "Seed"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Number(-1, label="Seed number", elem_id=self.elem_id("seed"))]


class Neighbour(scripts.Script):
    """Runs ``inner`` in the middle of a job, as ADetailer does; ``seen`` notes the moments."""

    inner = None
    seen: list[str] = []

    def title(self):
        return "Neighbour"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Checkbox(False, label="Neighbour on"), gr.Textbox("", label="Neighbour text")]

    def process(self, p, *args):
        p.extra_generation_params["Neighbour"] = "here"

    def postprocess_image(self, p, pp, *args):
        if type(self).inner:
            type(self).inner(p)
