"""A model that many tests want a copy of each: `copy.deepcopy` of a tiny one takes longer than to run it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch import nn


class Packed:
    """``model`` pickled, its tensors beside it."""

    def __init__(self, model: nn.Module) -> None:
        file, self._tensors = io.BytesIO(), []
        _Packer(file, self._tensors).dump(model)
        self._pickled = file.getvalue()

    def unpacked(self) -> Any:
        """A copy that shares nothing with the model, nor with other copies."""
        return _Unpacker(io.BytesIO(self._pickled), self._tensors).load()


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, tensors: list) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._tensors, self._numbers = tensors, {}

    def persistent_id(self, thing: Any) -> int | None:
        if not isinstance(thing, torch.Tensor):
            return None
        if id(thing) not in self._numbers:
            self._numbers[id(thing)] = len(self._tensors)
            self._tensors.append(thing)
        return self._numbers[id(thing)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: list) -> None:
        super().__init__(file)
        self._tensors, self._copies = tensors, {}

    def persistent_load(self, number: int) -> torch.Tensor:
        if number not in self._copies:
            tensor = self._tensors[number]
            clone = tensor.detach().clone()
            is_parameter = isinstance(tensor, nn.Parameter)
            self._copies[number] = nn.Parameter(clone, tensor.requires_grad) if is_parameter else clone.requires_grad_(tensor.requires_grad)
        return self._copies[number]
