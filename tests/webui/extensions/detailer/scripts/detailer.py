"""Paints over each finished picture in a job of its own, with the calls that ADetailer makes around it. For tests."""

import base64
import copy
import io
from pathlib import Path

import gradio as gr
import modules.scripts as scripts
from modules import script_callbacks
from modules.processing import Processed, StableDiffusionProcessingImg2Img, process_images
from PIL import Image

last = {}


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


class Detailer(scripts.Script):
    def title(self):
        return "Detailer"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Checkbox(False, label="Detailer on"), gr.Textbox("", label="Always-on scripts of the inner job")]

    def postprocess_image(self, p, pp, on, kept):
        if not on or getattr(p, "is_inner", False):
            return
        if p.batch_index == 0:
            # It ends the outer job for other scripts, on a copy.
            p.scripts.postprocess(copy.copy(p), Processed(p, [], p.seed, ""))
        inner = self.inner_job(p, pp.image, kept)
        done = process_images(inner)
        last.update(given=encoded(pp.image), infotext=done.infotexts[0], comments=done.comments)
        pp.image = done.images[0]
        if p.batch_index == p.batch_size - 1:
            # And begins it again, on a copy that shares the outer job's PNG info.
            again = copy.copy(p)
            p.scripts.before_process(again)
            p.scripts.process(again)

    def inner_job(self, p, image, kept):
        mask = Image.new("L", image.size, 0)
        width, height = image.size
        mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
        inner = StableDiffusionProcessingImg2Img(
            init_images=[image],
            mask=None,
            mask_blur=4,
            inpainting_fill=1,
            inpaint_full_res=False,
            denoising_strength=0.6,
            sd_model=p.sd_model,
            prompt=p.prompt,
            negative_prompt=p.negative_prompt,
            seed=p.seed,
            subseed=p.subseed,
            sampler_name=p.sampler_name,
            steps=p.steps,
            cfg_scale=p.cfg_scale,
            width=p.width,
            height=p.height,
            # The same dictionary, as ADetailer's.
            extra_generation_params=p.extra_generation_params,
            do_not_save_samples=True,
            do_not_save_grid=True,
        )
        inner.image_mask = mask
        inner.is_inner = True
        # The host sets the job up when it has both.
        runner = copy.copy(p.scripts)
        runner.alwayson_scripts = [s for s in runner.alwayson_scripts if Path(s.filename).stem in kept.split(",")]
        inner.scripts, inner.script_args = runner, copy.copy(p.script_args)
        return inner


def add_routes(demo, app):
    app.add_api_route("/detailer/last", lambda: last, methods=["GET"])


script_callbacks.on_app_started(add_routes)
