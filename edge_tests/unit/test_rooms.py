"""The house's own rules, read from the source: which room may import which, and where a runtime may be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("sdk", "training", "converters")

#: What executes or converts a graph: never needed for ``import sdk`` and its verdict tables.
RUNTIMES = {
    "torch", "torchvision", "torchao", "executorch", "onnxruntime", "ai_edge_litert", "tflite_runtime", "tensorflow",
    "coremltools", "litert_torch", "onnx", "timm", "lightning", "cv2",
}  # fmt: skip

#: The MIL executor borrows torch's kernels; ExecuTorch's Python binding takes and gives torch tensors.
TORCH_BORROWERS = ("sdk/runtimes/mil/", "sdk/runtimes/executorch_.py")

#: These modules of the MIL executor are imported by its ``load`` alone, so they may import torch at their top.
LOADED_LATE = "sdk/runtimes/mil/"
LOADED_AT_ONCE = ("sdk/runtimes/mil/__init__.py", "sdk/runtimes/mil/runtime.py")


class Import(NamedTuple):
    """One import of a module: full name, line, whether it runs when the importing module is imported."""

    name: str
    line: int
    at_import: bool


def imports(source: str, package: str) -> Iterator[Import]:
    """Every import in a module of ``package``, relative ones resolved; ``if TYPE_CHECKING`` blocks do not count."""
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(source), True)]
    while pending:
        node, at_import = pending.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, *([node.module] if node.module else [])])
            if base:
                yield Import(base, node.lineno, at_import)
            for alias in node.names:
                yield Import(f"{base}.{alias.name}".lstrip("."), node.lineno, at_import)
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        children: list[ast.AST] = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            children = list(node.orelse)
        pending += [(child, at_import and not inside) for child in children]


def violations(path: str, source: str) -> list[str]:
    """What a module does against the rules, one sentence each. ``path`` is relative to the repository."""
    room = path.partition("/")[0]
    forbidden = {"sdk": {"training", "converters"}, "training": {"converters"}, "converters": set()}[room]
    found = []
    for name, line, at_import in imports(source, Path(path).parent.as_posix().replace("/", ".")):
        top = name.partition(".")[0]
        if top in forbidden:
            found.append(f"{path}:{line}: {room} imports {name}")
        if room == "sdk" and top == "torch" and not path.startswith(TORCH_BORROWERS):
            found.append(f"{path}:{line}: only {' and '.join(TORCH_BORROWERS)} may use torch")
        late = path.startswith(LOADED_LATE) and path not in LOADED_AT_ONCE
        if room == "sdk" and top in RUNTIMES and at_import and not late:
            found.append(f"{path}:{line}: {name} is imported with the module; import it in the function that needs it")
        if top == Path(path).stem and top not in ROOMS:
            found.append(f"{path}:{line}: the module is named like the package {top} that it imports")
    return sorted(set(found))


def modules() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("path", modules())
def test_every_module_keeps_the_rules(path):
    assert violations(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("sdk/verify.py", "import training.models", "sdk imports training.models"),
        ("sdk/verify.py", "def f():\n    from converters.export import export", "sdk imports converters.export"),
        ("sdk/verify.py", "from .. import converters", "sdk imports converters"),
        ("sdk/report/html.py", "try:\n    import converters\nexcept ImportError:\n    pass", "sdk imports converters"),
        ("training/train.py", "def f():\n    import converters", "training imports converters"),
        ("sdk/bench.py", "def f():\n    import torch", "may use torch"),
        ("sdk/bench.py", "import onnxruntime as ort", "imported with the module"),
        ("sdk/runtimes/ort.py", "class A:\n    import onnxruntime", "imported with the module"),
        ("sdk/runtimes/ort.py", "if True:\n    from onnxruntime import InferenceSession", "imported with the module"),
        ("sdk/runtimes/mil/__init__.py", "import torch", "imported with the module"),
        ("sdk/runtimes/mil/runtime.py", "from torch import Tensor", "imported with the module"),
        ("sdk/runtimes/executorch_.py", "import torch", "imported with the module"),
        ("converters/onnx.py", "def f():\n    import onnx", "named like the package onnx"),
    ],
)  # fmt: skip
def test_a_planted_breach_is_found(path, source, words):
    found = violations(path, source)
    assert found
    assert any(words in sentence for sentence in found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sdk/runtimes/ort.py", "def load():\n    import onnxruntime"),
        ("sdk/runtimes/executorch_.py", "class A:\n    def run(self):\n        import torch"),
        ("sdk/runtimes/mil/program.py", "import torch\nfrom .ops import table"),
        ("sdk/verify.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import onnxruntime"),
        ("training/train.py", "import torch\nfrom sdk.errors import UsageError"),
        ("converters/export.py", "import torch\nfrom training import checkpoint\nfrom sdk import verify"),
    ],
)
def test_what_is_allowed_is_not_reported(path, source):
    assert violations(path, source) == []


def test_importing_all_of_the_sdk_loads_no_runtime():
    names = [
        path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for path in modules()
        if path.startswith("sdk/") and not path.endswith("__main__.py")
        if not path.startswith(LOADED_LATE) or path in LOADED_AT_ONCE
    ]
    assert {"sdk.cli", "sdk.verify", "sdk.stylize", "sdk.runtimes.mil", "sdk.runtimes.ort"} <= set(names)
    code = f"import {', '.join(names)}, sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert set(done.stdout.split()) & RUNTIMES == set()
