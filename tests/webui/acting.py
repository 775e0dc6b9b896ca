"""Jobs of the host double in which Accel acts, and the model that they act on."""

ON = {"enabled": True, "preset": "Custom", "auto": False, "merging.ratio": 0.5}
AGENTS = {"enabled": True, "preset": "Custom", "auto": False, "agents.ratio": 0.3, "agents.end": 1}
DONE = "merging on 3 of 7 layers for 5 of 5 steps"


def unet_of(host):
    return host.shared.sd_model.model.diffusion_model


def blocks(host):
    return [module for module in unet_of(host).modules() if type(module).__name__ == "BasicTransformerBlock"]
