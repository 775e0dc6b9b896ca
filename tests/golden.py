"""Golden conformance data: outputs of the official implementations, with the inputs they were made from (tests/data/*/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data"


def read_json(name: str) -> Any:
    """The contents of ``tests/data/NAME.json``."""
    return json.loads((DATA / f"{name}.json").read_text())


class Golden:
    """One golden data set: ``cases`` (parameters) and ``tensors`` (all of them, by full name)."""

    def __init__(self, name: str) -> None:
        self.cases: list[dict[str, Any]] = read_json(name)["cases"]
        self.tensors: dict[str, torch.Tensor] = load_file(DATA / f"{name}.safetensors")

    def of(self, case: str) -> dict[str, torch.Tensor]:
        """The tensors ``CASE.*`` by the rest of their names."""
        return {name.removeprefix(f"{case}."): tensor for name, tensor in self.tensors.items() if name.startswith(f"{case}.")}

    def cases_with(self, name: str) -> list[dict[str, Any]]:
        """The cases that have a tensor ``CASE.name``."""
        return [case for case in self.cases if f"{case['name']}.{name}" in self.tensors]
