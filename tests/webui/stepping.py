"""What a job of the host double runs, step by step."""

from __future__ import annotations

from typing import Any

TGATE = {"enabled": True, "preset": "Custom", "auto": False, "tgate.on": True, "tgate.gate": 0.4}
SKIP = {"enabled": True, "preset": "Custom", "auto": False, "guidance.on": True, "guidance.when": "after", "guidance.after": 0.4}


def rows_by_step(host: Any, accel: Any = None, **fields: Any) -> tuple[list[list[int]], Any]:
    """The rows of the U-Net calls of every step of a job, and what came out of it."""
    steps: list[list[int]] = []
    unet = host.shared.sd_model.model.diffusion_model
    hook = unet.register_forward_pre_hook(lambda module, args: steps[-1].append(args[0].shape[0]))
    host.callbacks.callbacks["cfg_denoiser"].insert(0, ("counting", lambda params: steps.append([])))
    try:
        done = host.job(accel=accel, **fields)
    finally:
        hook.remove()
        host.callbacks.callbacks["cfg_denoiser"].pop(0)
    return steps, done


def last_report(host: Any) -> dict[str, Any]:
    """The account of the last job, as data."""
    from lib_accel.webui.jobs.session import SESSION

    return SESSION.last


def methods_of(host: Any) -> list[dict[str, Any]]:
    """The accounts of the methods of the last job's last pass."""
    return last_report(host)["passes"][-1]["report"]["methods"]
