"""The floors of the house: a module imports from its own floor and from those below, never from above."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "stav2a_jax"

# From the ground up. A name stands for a module or for a whole folder; the longest name that fits counts. Modules of
# one floor may use each other, except where ALONE says otherwise.
FLOORS = (
    ("errors",),
    ("types",),
    ("config", "fields", "released", "presets"),
    ("nn", "diffusion", "audio", "video", "parallel", "tensors", "tokenizer"),
    ("models", "metrics", "picture"),
    ("data", "convert", "checkpoint", "bundle"),
    ("training", "pipeline", "listening", "evaluation"),
    ("foley_benchmark", "aot", "ablation"),
    ("commands",),
    ("cli",),
    ("",),  # stav2a_jax/__init__.py, which offers what is public
)
ALONE = {"diffusion": ("nn", "models")}
OPTIONAL = ("gradio", "tensorflow", "tensorflow_datasets", "tensorboardX", "matplotlib", "sentencepiece", "apache_beam")
# Modules that are imported where they are used, because they are nothing without their library.
ABOUT = {"data.builders": ("tensorflow_datasets",), "data.prepare.beam": ("apache_beam", "tensorflow_datasets")}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def floor_of(module):
    """(floor number, name in FLOORS) of a module such as "data.cache"."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(FLOORS):
            if ".".join(parts[:length]) in names:
                return number, ".".join(parts[:length])
    pytest.fail(f"{module} stands on no floor: add it to FLOORS")


def imports(module):
    """(absolute name, line, whether at import time) of everything that a module imports."""
    tree = ast.parse(MODULES[module].read_text())
    late = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    hints = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    late |= {id(n) for node in hints for n in node.body}
    package = ["stav2a_jax", *module.split(".")]
    if MODULES[module].name != "__init__.py":
        package.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node.lineno, id(node) not in late


def edges(module):
    """(module of ours that is imported, line)."""
    for name, line, _ in imports(module):
        if name.split(".")[0] == "stav2a_jax":
            inside = name.removeprefix("stav2a_jax").removeprefix(".")
            yield inside if inside in MODULES else inside.rpartition(".")[0], line


def test_no_import_points_upwards():
    wrong = []
    for module in MODULES:
        here, name = floor_of(module)
        for target, line in edges(module):
            there, other = floor_of(target)
            if there > here or other in ALONE.get(name, ()):
                wrong.append(f"{module}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_relative_and_absolute_imports_are_both_seen():
    assert "data.foley_stage" in [t for t, _ in edges("data.foley")]
    assert "types" in [t for t, _ in edges("pipeline")]
    assert floor_of("data.foley_stage")[0] > floor_of("video.mux")[0]


def test_nothing_imports_the_converter_but_its_commands():
    users = {m for m in MODULES for target, _ in edges(m) if floor_of(target)[1] == "convert"}
    outside = {m for m in users if not m.startswith("convert")}
    assert outside <= {"commands.convert", "commands.export", "commands.inspect"}


def test_torch_lives_in_the_converter():
    users = {m for m in MODULES for name, _, _ in imports(m) if name.split(".")[0] == "torch"}
    assert {m for m in users if not m.startswith("convert")} == set()


def test_heavy_and_optional_libraries_are_imported_where_they_are_used():
    early = [(m, name) for m in MODULES for name, _, now in imports(m) if now and name.split(".")[0] in OPTIONAL]
    assert [(m, name) for m, name in early if name.split(".")[0] not in ABOUT.get(m, ())] == []
    assert not [(m, t) for m in MODULES for t, _, now in imports(m) if now and t.removeprefix("stav2a_jax.") in ABOUT]


def test_help_waits_for_nothing_heavy():
    light = {"", "cli", "errors", *(m for m in MODULES if m.startswith("commands"))}
    heavy = {"jax", "flax", "numpy", "av", "cv2", "librosa", "rich"}
    for module in light:
        for name, line, now in imports(module):
            if now and name.startswith("stav2a_jax"):
                inside = name.removeprefix("stav2a_jax").removeprefix(".")
                assert {inside, inside.rpartition(".")[0]} & light, f"{module}:{line} imports {name} at once"
            assert not (now and name.split(".")[0] in heavy), f"{module}:{line} imports {name} at once"
