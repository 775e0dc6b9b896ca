"""The toy of docs/adding-a-method.md, added as that page says: a file, and a line in the registry."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from lib_accel import methods
from lib_accel.methods import registry

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs" / "adding-a-method.md"
# Everything that reads the registry when it is imported.
READERS = ("lib_accel.settings", "lib_accel.cost", "lib_accel.cli", "lib_accel.webui")


def blocks() -> list[str]:
    """The page's code: the file, the import, the entry (no Python by itself, which formatters would change), and the use."""
    return re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@contextmanager
def added_toy(folder: Path) -> Iterator[type]:
    """The settings class of the toy while it is one of the methods; ``folder`` is where its file is put."""
    file, importing, entry, _ = blocks()
    source = Path(registry.__file__).read_text(encoding="utf-8")
    end = source.index("\n]\n", source.index("METHODS: list"))
    source = source[: end + 1] + entry + source[end + 1 :]
    source = source.replace("from .token_merging", f"{importing}from .token_merging")
    (folder / "toy.py").write_text(file, encoding="utf-8")
    before = {name: module for name, module in sys.modules.items() if name.startswith(READERS)}
    names, attributes = dict(vars(registry)), dict(vars(sys.modules["lib_accel"]))
    _forget()
    toy = _load("lib_accel.methods.toy", folder / "toy.py")
    try:
        exec(compile(source, registry.__file__, "exec"), vars(registry))
        methods.METHODS = registry.METHODS
        yield toy.Toy
    finally:
        _forget()
        del sys.modules["lib_accel.methods.toy"]
        vars(registry).update(names)
        methods.METHODS = registry.METHODS
        sys.modules.update(before)
        vars(sys.modules["lib_accel"]).update(attributes)


def _load(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _forget() -> None:
    for name in [name for name in sys.modules if name.startswith(READERS)]:
        del sys.modules[name]
