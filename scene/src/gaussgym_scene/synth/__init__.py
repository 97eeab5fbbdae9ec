"""Procedural scenes, exact in geometry and scale: one file a kind, and their registry."""

import dataclasses
import importlib
from typing import Any

from gaussgym_scene.errors import InputError
from gaussgym_scene.scene import Scene

KINDS = {
    "flat": "FlatCfg",
    "slope": "SlopeCfg",
    "stairs": "StairsCfg",
    "street": "StreetCfg",
}
"""Each kind lives in the module of its name, which holds this cfg dataclass and `make(cfg, seed) -> Scene`."""


def cfg_class(kind: str) -> type:
    """The dataclass of a kind's parameters.

    Raises:
        InputError: If there is no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"scene kind {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    return getattr(importlib.import_module(f"gaussgym_scene.synth.{kind}"), KINDS[kind])


def synthesize(kind: str, seed: int = 0, **params: Any) -> Scene:
    """Make a procedural scene.

    The same kind, seed and parameters give the same arrays, byte for byte.

    Args:
        kind: 'flat', 'slope', 'stairs', 'rubble', 'street' or 'corridor'.
        seed: What the looks, and the sizes not given, are drawn from; at least 0.
        **params: Fields of the kind's cfg dataclass, such as `step_height_m` of stairs or `max_splats` of all.

    Returns:
        A scene with textured mesh, splats, exact heightfield and paths; metadata names everything that was drawn.

    Raises:
        InputError: If the kind, a parameter's name or its value is not one of those that exist.
    """
    cfg_type = cfg_class(kind)
    names = [field.name for field in dataclasses.fields(cfg_type)]
    if unknown := [name for name in params if name not in names]:
        raise InputError(f"{kind} has no parameter {', '.join(unknown)}; it has {', '.join(names)}")
    try:
        cfg = cfg_type(**params)
    except TypeError:
        raise InputError(f"parameters {params!r} of {kind} are not numbers; expected numbers") from None
    return importlib.import_module(f"gaussgym_scene.synth.{kind}").make(cfg, seed)
