"""A host that guides: it tells its steps and rows, and counts the rows that a U-Net really runs."""

from __future__ import annotations

import models
import torch

from lib_accel import Row

UNCOND, COND = Row("uncond"), Row("cond")
PAIR = (UNCOND, COND)


def rows_run(unet) -> list[int]:
    """How many rows every U-Net call from now on runs, by what its first layer is given."""
    seen = []
    layer = unet.get_submodule("input_blocks.0.0" if hasattr(unet, "input_blocks") else "conv_in")
    layer.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    return seen


def given_to(rows, timestep=500.0, h=16, w=16):
    """Latents and texts by row: the same for the same row in whatever batch it comes, others at other timesteps."""
    given = models.inputs(1, h, w, timestep=timestep)

    def seeded(shape, seed):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return models.SimpleNamespace(
        latents=torch.cat([seeded((1, 4, h, w), 100 + row.image + int(timestep)) for row in rows]),
        timestep=torch.full((len(rows),), float(timestep)),
        text=torch.cat([seeded(given.text.shape, 1 + 10 * row.image + 3 * row.part + (row.role == "cond")) for row in rows]),
    )


class Silent:
    """Stands for an accelerator where there is none."""

    def step(self, *args, **told):
        pass


def step(unet, accelerator, index, total, calls=(PAIR,), timestep=None, h=16, w=16, **told):
    """The prediction of every row, by its key, of one step; ``calls`` holds the rows of each of its U-Net calls."""
    accelerator.step(index, total, [row for rows in calls for row in rows], **told)
    timestep = 990 - 30 * index if timestep is None else timestep
    predictions = {}
    for rows in calls:
        out = models.call(unet, given_to(rows, timestep, h, w))
        assert len(out) == len(rows)
        predictions |= {row.key: one for row, one in zip(rows, out)}
    return predictions


def passes(unet, accelerator, total=5, calls=(PAIR,), **told):
    """The predictions of every step of a pass."""
    return [step(unet, accelerator, index, total, calls, **told) for index in range(total)]


def account(accelerator, index=0):
    return accelerator.report().as_dict()["methods"][index]


def codes(told):
    """The reasons in a report's or an account's data, by code; with the reason of a reason behind it."""
    return [_code(reason) for reason in told["reasons"]]


def _code(reason):
    why = reason.get("why")
    return f"{reason['code']}: {_code(why)}" if isinstance(why, dict) else reason["code"]


def layers_why(account):
    """Why layers of a method were left alone -> how many: by code, or by code and its values."""
    return {_key(reason): reason["layers"] for reason in account["reasons"] if "layers" in reason}


def _key(reason):
    values = [value for name, value in reason.items() if name not in ("code", "text", "layers")]
    return (reason["code"], *values) if values else reason["code"]
