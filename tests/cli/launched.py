"""Run by a launcher in two processes, and by a test alone: every command that shares its work, into a folder. argv: the folder."""

import sys

from lib_accel.cli.main import main
from sample_model import evaluate, evaluate_edits

SMALL = ["--steps", "1", "--size", "64", "--device", "cpu"]
SOURCE = "a red circle on a gray wall"


def run(out: str) -> None:
    """quality, edit and both evaluations; the last number of edits of 3 a batch leaves one process with less than the other."""
    quality = ["--count", "2", "--preset", "fast", "--method", "--variants", "forecast", "--sampler", "DPM++ 2M Karras"]
    edited = ["a red square on a gray wall", "a blue circle on a gray wall", "a red circle on sand"]
    assert main(["quality", *quality, *SMALL, "--out", f"{out}/quality"]) == 0
    assert main(["edit", SOURCE, *edited, "--blend", "circle:square", "--at-once", "2", *SMALL, "--out", f"{out}/edit"]) == 0
    assert evaluate.main(["--count", "3", "--batch", "2", *SMALL, "--out", f"{out}/evaluate"]) == 0
    edits = ["--count", "2", "--blends", "1", "--shown", "2", *SMALL]
    assert evaluate_edits.main([*edits, "--out", f"{out}/edits"]) == 0


def run_users_own() -> None:
    """A user's own processes: each accelerates its own pipeline, and says what it did."""
    from accelerate import PartialState

    from lib_accel import GuidanceSkip, accelerated
    from lib_accel.sample import load_pipeline

    state, pipe = PartialState(cpu=True), load_pipeline()
    pipe.set_progress_bar_config(disable=True)
    with state.split_between_processes([SOURCE, "a blue star at night", "a red ring on sand"]) as prompts:
        for prompt in prompts:
            with accelerated(pipe, GuidanceSkip(when="after", after=0.5)) as accelerator:
                pipe(prompt, num_inference_steps=4, width=64, height=64, output_type="latent")
            assert accelerator.report().as_dict()["methods"][0]["evaluations_saved"] == 2, str(accelerator.report())
    # What wraps a model for training calls the same module.
    import torch
    from torch.nn.parallel import DistributedDataParallel

    wrapped = DistributedDataParallel(pipe.unet)
    with torch.no_grad(), accelerated(pipe.unet, GuidanceSkip(when="after", after=0.5)) as accelerator:
        wrapped(torch.zeros(2, 4, 8, 8), torch.tensor(5), torch.zeros(2, 77, pipe.unet.config.cross_attention_dim))
    assert accelerator.report().as_dict()["unet_calls"] == 1


if __name__ == "__main__":
    run(sys.argv[1])
    if len(sys.argv) > 2:
        run_users_own()
