"""Imports go one way: from what is on top to what it stands on, and nowhere in a circle."""

import ast
from collections import defaultdict
from pathlib import Path

import lib_accel

ROOT = Path(lib_accel.__file__).parent
# From below. A package may import those of its own line and of the lines before it.
LINES = (
    ("ops", "core"),
    ("backends",),
    ("engine",),
    ("methods", "prompt_to_prompt"),
    ("settings", "cost", "images", "sample"),
    ("image_editing",),
    ("cli",),
    ("webui",),
)
HEIGHT = {name: height for height, names in enumerate(LINES) for name in names}


def imports() -> dict[str, set[str]]:
    """For every module of ours those of ours that it imports, also inside of functions; not those for annotations alone."""
    names = {
        ".".join(("lib_accel", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for path in ROOT.rglob("*.py")
    }
    return {name: set(_of(name, names)) - {name} for name in names}


def _of(name: str, names: set[str]):
    path = ROOT.joinpath(*name.split(".")[1:])
    is_package = path.is_dir()
    tree = ast.parse((path / "__init__.py" if is_package else path.with_suffix(".py")).read_text(encoding="utf-8"))
    annotating = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for part in node.body
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in annotating:
            parts = name.split(".")[: len(name.split(".")) - node.level + is_package]
            base = ".".join([*parts, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in names else base


def package(name: str) -> str:
    return name.split(".")[1] if name.count(".") else ""


def test_every_package_has_a_place():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(HEIGHT)


def test_nothing_imports_what_stands_above_it():
    wrong = {
        f"{name} -> {other}"
        for name, others in imports().items()
        for other in others
        if package(name) in HEIGHT and HEIGHT[package(name)] < HEIGHT.get(package(other), 0)
    }
    assert not wrong


def test_the_command_line_and_the_webui_do_not_know_each_other():
    assert not {name for name, others in imports().items() if package(name) == "webui" and "cli" in map(package, others)}


def test_there_is_no_circle():
    below = imports()
    while free := [name for name, others in below.items() if not others & below.keys()]:
        for name in free:
            del below[name]
    assert not below, sorted(below)


def test_one_name_means_one_thing():
    """No two classes of one name, and none that differs from another by nothing but a leading underscore."""
    places = defaultdict(list)
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
