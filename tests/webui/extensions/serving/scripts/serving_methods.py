"""Runs jobs with methods of tests in place of those of their settings, counts ResBlocks, and disturbs: by routes. For tests.

`serving.py` of the tests lies in the folder of this extension.
"""

import modules.scripts as scripts
import serving
from fastapi import Body
from modules import script_callbacks, sd_models

from lib_accel.webui.jobs import open_pass

MINE = "serving_counts"
methods_of_settings = open_pass.methods_for
asked: dict = {}
frozen: dict = {}
networks = []


def unet_of(model):
    return model.model.diffusion_model


def watch(model):
    """Once for every U-Net."""
    unet = unet_of(model)
    if not hasattr(unet, MINE):
        setattr(unet, MINE, serving.res_blocks_run(unet))
        unet.register_forward_pre_hook(freeze, with_kwargs=True)
        unet.register_forward_pre_hook(fail)


def freeze(unet, args, kwargs):
    """The same latents and timesteps in every call of a size, whatever the sampler made of them."""
    if not asked.get("freeze"):
        return None
    given = [*args, kwargs["timesteps"]] if "timesteps" in kwargs else list(args)
    x, timesteps = frozen.setdefault(given[0].shape, given[:2])
    return ((x,), {**kwargs, "timesteps": timesteps}) if "timesteps" in kwargs else ((x, timesteps, *args[2:]), kwargs)


def fail(*_):
    if asked.get("fail_at") is not None:
        asked["fail_at"] -= 1
        if asked["fail_at"] == 0:
            asked["fail_at"] = None
            raise RuntimeError("on purpose")


def methods_for(*given):
    names = asked.get("methods")
    if names is None:
        return methods_of_settings(*given)
    return tuple(getattr(serving, name)(**values) for name, values in names.items()), None


def ask(body: dict = Body(...)):  # noqa: B008
    """methods: {name: values}, None for those of the settings. fail_at: the call of the U-Net that fails. wrap: when a network is put on
    the U-Net, "before" the pass is opened or "inside". freeze: see there."""
    frozen.clear()
    asked.clear()
    asked.update(body)
    return {}


def taken():
    """ResBlocks run, and calls of the network, since the last time."""
    seen = getattr(unet_of(sd_models.model_data.sd_model), MINE)
    told = {"blocks": len(seen), "networks": len(networks)}
    seen.clear()
    networks.clear()
    return told


class Network(scripts.Script):
    """As ControlNet: its forward on the U-Net calls the one that it found, which it gives back afterwards."""

    def title(self):
        return "Network"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def put(self, p):
        unet = unet_of(p.sd_model)
        kept = unet.forward

        def forward(*args, **kwargs):
            networks.append(1)
            return kept(*args, **kwargs)

        self.kept, unet.forward = kept, forward

    def process_batch(self, p, *args, **kwargs):
        if asked.get("wrap") == "before":
            self.put(p)

    def process_before_every_sampling(self, p, *args, **kwargs):
        if asked.get("wrap") == "inside":
            self.put(p)

    def postprocess_batch(self, p, *args, **kwargs):
        if asked.get("wrap"):
            unet = unet_of(p.sd_model)
            unet.forward = self.kept
            if getattr(self.kept, "__self__", None) is unet:
                del unet.forward


def add_routes(demo, app):
    app.add_api_route("/serving/ask", ask, methods=["POST"])
    app.add_api_route("/serving/taken", taken, methods=["GET"])


open_pass.methods_for = methods_for
script_callbacks.on_model_loaded(watch)
script_callbacks.on_app_started(add_routes)
