"""Runs when an interpreter of nerfstudio's environment starts, by a `.pth` file: mends torchvision before anybody imports it.

nerfstudio imports torchvision long before it looks for methods, so no method can do this. Nothing heavy is imported here.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_kept: list[Any] = []
"""The operator library; the operators go when it is collected."""


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Finds nothing itself; acts when torchvision is imported, then steps out of the way."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            define_missing_operators()
        return None


def define_missing_operators() -> bool:
    """Declare torchvision's operators `nms` and `qnms` where its compiled half cannot be loaded.

    PyPI's wheel is built against CUDA: beside a CPU build of torch its library does not load, and its Python half then stops at
    shape functions for operators that nobody registered. Declared, they have no kernel: calling one fails with torch's own
    message, which nerfstudio never does.

    Returns:
        Whether they had to be declared.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    import torch
    from torch import library

    for file in sorted(Path(spec.origin).parent.glob("_C*.so")) + sorted(
        Path(spec.origin).parent.glob("_C*.pyd")
    ):
        try:
            torch.ops.load_library(str(file))
        except OSError:
            continue
        return False
    operators = library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(operators)
    return True


if (
    not any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path)
    and "torchvision" not in sys.modules
):
    sys.meta_path.insert(0, _BeforeTorchvision())
