"""Where a robot's visual model (meshes) is found; physics, training and the shipped images never need one."""

from __future__ import annotations

from pathlib import Path

from gaussgym_scene.errors import InputError

from gaussgym_sim.robot import RobotCfg

MENAGERIE_NAMES = {
    "a1": "unitree_a1",
    "anymal_c": "anybotics_anymal_c",
    "go1": "unitree_go1",
    "go2": "unitree_go2",
    "t1": "booster_t1",
}
"""Models of MuJoCo Menagerie (Google DeepMind), each under its maker's licence."""


def visual_model(robot: RobotCfg) -> Path:
    """Path of an MJCF with meshes of this robot, downloaded on first use by the package ``mujoco-menagerie``.

    Its joints and bodies are the vendor's, not ours: it is for looking at. ``MENAGERIE_ROOT`` names a checkout to use offline.

    Raises:
        InputError: no such model, the package is not installed, or it could not get the files.
    """
    if robot.name not in MENAGERIE_NAMES:
        raise InputError(
            f"robot {robot.name!r} has no visual model; there are some of: {', '.join(sorted(MENAGERIE_NAMES))}"
        )
    try:
        import mujoco_menagerie  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "visual models need the package mujoco-menagerie; pip install mujoco-menagerie"
        ) from None
    try:
        model = mujoco_menagerie.get(MENAGERIE_NAMES[robot.name])
        return Path(model.xml(model.default_model))
    except (mujoco_menagerie.MenagerieError, OSError) as error:
        raise InputError(
            f"visual model of {robot.name!r}: {' '.join(str(error).split())}; "
            "check the network, or set MENAGERIE_ROOT to a checkout"
        ) from None
