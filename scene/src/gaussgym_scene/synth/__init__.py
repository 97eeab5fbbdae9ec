"""Procedural scenes, exact in geometry and scale: one file a kind, and their registry."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import (
    corridor,
    course,
    flat,
    gaps,
    hall,
    room,
    rubble,
    slope,
    stairs,
    stones,
    street,
)

Kind = tuple[type, Callable[[Any, int], Scene]]
"""The dataclass of a kind's parameters, and the function that makes a scene from them and a seed."""

KINDS: Registry[Kind] = Registry(
    "scene kind",
    "gaussgym.scenes",
    {
        "flat": (flat.FlatCfg, flat.make),
        "slope": (slope.SlopeCfg, slope.make),
        "stairs": (stairs.StairsCfg, stairs.make),
        "rubble": (rubble.RubbleCfg, rubble.make),
        "gaps": (gaps.GapsCfg, gaps.make),
        "stones": (stones.StonesCfg, stones.make),
        "course": (course.CourseCfg, course.make),
        "street": (street.StreetCfg, street.make),
        "corridor": (corridor.CorridorCfg, corridor.make),
        "hall": (hall.HallCfg, hall.make),
        "room": (room.RoomCfg, room.make),
    },
)
"""Kinds of scenes by name. Another package adds one by an entry point of group ``gaussgym.scenes`` to a `Kind`."""


def synthesize(kind: str, seed: int = 0, **params: Any) -> Scene:
    """Make a procedural scene.

    The same kind, seed and parameters give the same arrays, byte for byte.

    Args:
        kind: One of `KINDS.names()`, such as 'flat', 'stairs' or 'street'.
        seed: What the looks, and the sizes not given, are drawn from; at least 0.
        **params: Fields of the kind's cfg dataclass, such as `step_height_m` of stairs or `max_splats` of all.

    Returns:
        A scene with textured mesh, splats, exact heightfield and paths; metadata names everything that was drawn.

    Raises:
        InputError: If the kind, a parameter's name or its value is not one of those that exist.
    """
    cfg_type, make = KINDS.get(kind)
    names = [field.name for field in dataclasses.fields(cfg_type)]
    if unknown := [name for name in params if name not in names]:
        raise InputError(f"{kind} has no parameter {', '.join(unknown)}; it has {', '.join(names)}")
    try:
        cfg = cfg_type(**params)
    except TypeError:
        raise InputError(f"parameters {params!r} of {kind} must be numbers") from None
    return make(cfg, seed)
