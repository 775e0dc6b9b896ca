"""The embedded sample model: a real, very small Stable Diffusion that draws simple scenes on any computer.

It is a diffusers folder (`model_folder()`); `load_pipeline()` opens it. Nothing is downloaded. Importing this module
loads neither torch nor diffusers.
"""

from __future__ import annotations

from pathlib import Path

DEFAULT_PROMPT = "a large red star and a blue striped ring on grass"
DEFAULT_SIZE = 256  # pixels
DEFAULT_STEPS = 25
DEFAULT_GUIDANCE = 5.0

WEIGHT_FILES = (
    "vae/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)


class WeightsError(RuntimeError):
    """A weight file of the sample model is missing or damaged; the message names the file and what to do."""


def model_folder() -> Path:
    """The diffusers folder with the model, as `StableDiffusionPipeline.from_pretrained` takes it."""
    return Path(__file__).resolve().parent / "model"


def has_weights(folder: Path | None = None) -> bool:
    """True when every weight file is there and whole. `folder` is the model's, unless another one is given."""
    try:
        check_weights(folder)
    except WeightsError:
        return False
    return True


def check_weights(folder: Path | None = None) -> None:
    """Raise WeightsError, with one sentence that names the file, when a weight file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    folder = Path(folder or model_folder())
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            raise WeightsError(f"The sample model's weight file {path} is missing; install the extension again to get it back.")
        try:
            with safe_open(path, framework="np") as file:
                if not list(file.keys()):
                    raise WeightsError(f"The sample model's weight file {path} is empty; install the extension again.")
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"The sample model's weight file {path} is damaged ({error}); install the extension again.") from None


def load_pipeline(dtype=None, device: str = "cpu", random: bool = False, folder: Path | None = None):
    """Open the sample model as a diffusers StableDiffusionPipeline without a safety checker.

    dtype: of all weights; None means torch.float32.
    device: where the pipeline goes, for example "cpu" or "cuda".
    random: True builds the same networks with seeded random weights, which needs no weight file and draws noise.
    folder: another folder of the same kind, for models in training.
    Raises WeightsError when a weight file is missing or damaged.
    """
    import torch

    folder = Path(folder or model_folder())
    if not random:
        check_weights(folder)
    from . import networks

    with networks.quiet_libraries():
        pipeline = networks.random_pipeline(folder / "tokenizer") if random else networks.read_pipeline(folder)
    for network in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        # By way of the base class: diffusers' own `to` warns about layers to keep in float32, of which there are none.
        torch.nn.Module.to(network, device, torch.float32 if dtype is None else dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
