"""A recorded stretch of physics as a folder, and its repetition to the bit: what `gaussgym_sim.views.nan_guard` leaves behind."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gaussgym_scene.artifact import ArtifactWriter, read_artifact
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from numpy.typing import NDArray
from torch import Tensor

from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.vecsim import VecSim, make_sim
from gaussgym_sim.views.recorder import Call, SimRecorder, Stretch, repeat

MANIFEST, FORMAT, VERSION = "replay.json", "gaussgym-replay", 1
_ARRAY = "__array__"


@dataclass
class Replay:
    """What a folder holds.

    Attributes:
        settings: backend, terrain, robot, num_envs, and what was found (`gaussgym_sim.views.nan_guard.Finding`).
        stretches: one or two, in order.
        after: `SimState` at the end, by name.
    """

    settings: dict[str, Any]
    stretches: list[Stretch]
    after: dict[str, Tensor]

    @property
    def num_steps(self) -> int:
        """Steps that are repeated."""
        return sum(stretch.steps for stretch in self.stretches)


@dataclass
class ReplayedStep:
    """One env after one repeated step."""

    step: int
    base_height_m: float
    base_speed_m_s: float
    max_joint_speed_rad_s: float
    max_torque_nm: float
    invalid: bool


def save_replay(recorder: SimRecorder, directory: Path, finding: dict[str, Any]) -> Path:
    """Write what a recorder remembers, with the present state as what a repetition must arrive at.

    Args:
        recorder: of the sim.
        directory: to write; replaced if it exists.
        finding: goes into the manifest as it is; ``env`` is the env that `replay` shows.

    Returns:
        ``directory``.
    """
    arrays: dict[str, NDArray[Any]] = {}
    scenes: list[Scene] = []
    stretches = [_pack_stretch(stretch, arrays, scenes) for stretch in recorder.stretches]
    after = _pack(vars(recorder.sim.state), arrays)
    with ArtifactWriter(directory, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
        np.savez(writer.path / "arrays.npz", **arrays)  # type: ignore[arg-type]
        for index, scene in enumerate(scenes):
            _write_ground(scene, writer.path / f"scene-{index}")
        writer.fields |= {
            **recorder.settings, "robot": recorder.sim.robot.name, "num_envs": recorder.sim.num_envs, "finding": finding,
            "scenes": [{"name": s.name, "metadata": s.metadata} for s in scenes], "stretches": stretches, "after": after,
        }  # fmt: skip
    return directory


def load_replay(directory: Path | str) -> Replay:
    """Read and check a folder.

    Raises:
        InputError: no such folder, or a damaged one.
    """
    directory = Path(directory)
    fields = read_artifact(directory, manifest=MANIFEST, format=FORMAT, versions=(VERSION,))
    folder = directory.parent if directory.name == MANIFEST else directory
    try:
        with np.load(folder / "arrays.npz", allow_pickle=False) as file:
            arrays = {name: torch.from_numpy(file[name]) for name in file.files}
        scenes = [
            _read_ground(folder / f"scene-{i}", s["name"], s["metadata"])
            for i, s in enumerate(fields["scenes"])
        ]
        stretches = [_unpack_stretch(part, arrays, scenes) for part in fields["stretches"]]
        after = _unpack(fields["after"], arrays)
    except (KeyError, IndexError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{folder}: not a whole replay ({error!r}); record it again") from None
    names = ("backend", "terrain", "robot", "num_envs", "finding")
    return Replay({name: fields[name] for name in names}, stretches, after)


class Repetition:
    """A replay as it runs: iterate over its steps, then ask whether it is `identical`.

    Args:
        replay: which.
        robot: its cfg, for robots that are not registered.
        num_threads: of physics.

    Attributes:
        sim: that does it.
        env: that is shown.
    """

    def __init__(
        self, replay: Replay, *, robot: RobotCfg | None = None, num_threads: int | None = None
    ) -> None:
        """Make the sim, in its state at the beginning.

        Raises:
            InputError: the robot is not registered, or robot or simulator have changed.
        """
        self.replay, self._settings = replay, replay.settings
        first = replay.stretches[0]
        self.sim: VecSim = make_sim(
            self._settings["backend"], robot or get_robot(self._settings["robot"]), first.scenes, self._settings["num_envs"],
            num_threads=num_threads, terrain=self._settings["terrain"],
        )  # fmt: skip
        try:
            self.sim.load_state_dict(first.snapshot)
        except InputError:
            raise
        except (RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"the recorded state does not fit this version's simulator ({error}); replay it with the version that "
                "recorded it"
            ) from None
        self.env = int(self._settings["finding"]["env"])

    def __iter__(self) -> Iterator[ReplayedStep]:
        """Repeat all calls; one item a step."""
        for stretch in self.replay.stretches:
            step = stretch.first_step
            for call in stretch.calls:
                repeat(call, self.sim, stretch.targets)
                if call.name == "step":
                    yield self._row(step)
                    step += 1

    def _row(self, step: int) -> ReplayedStep:
        s, e = self.sim.state, self.env
        return ReplayedStep(
            step,
            base_height_m=float(s.root_pos_w[e, 2]),
            base_speed_m_s=float(s.root_lin_vel_w[e].norm()),
            max_joint_speed_rad_s=float(s.joint_vel[e].abs().max()),
            max_torque_nm=float(s.joint_torque[e].abs().max()),
            invalid=bool(s.invalid[e]),
        )

    def differences(self) -> list[str]:
        """Names of the `SimState` fields in which any env is not as it was, to the bit; call it after the last step."""
        state = vars(self.sim.state)
        return [
            name for name, value in self.replay.after.items() if not torch.equal(state[name].cpu(), value)
        ]


def _pack_stretch(stretch: Stretch, arrays: dict[str, NDArray[Any]], scenes: list[Scene]) -> dict[str, Any]:
    calls = [
        {
            "name": call.name, "tensors": _pack(call.tensors, arrays), "row": call.row, "substeps": call.substeps,
            "scene": None if call.scene is None else _index(call.scene, scenes),
        }
        for call in stretch.calls
    ]  # fmt: skip
    return {
        "first_step": stretch.first_step, "steps": stretch.steps, "calls": calls,
        "scenes": [_index(scene, scenes) for scene in stretch.scenes],
        "snapshot": _pack(stretch.snapshot, arrays), "targets": _pack(stretch.targets[: stretch.steps], arrays),
    }  # fmt: skip


def _unpack_stretch(part: dict[str, Any], arrays: dict[str, Tensor], scenes: list[Scene]) -> Stretch:
    calls = [
        Call(
            c["name"], _unpack(c["tensors"], arrays), c["row"], c["substeps"],
            None if c["scene"] is None else scenes[c["scene"]],
        )
        for c in part["calls"]
    ]  # fmt: skip
    return Stretch(
        part["first_step"], _unpack(part["snapshot"], arrays), [scenes[i] for i in part["scenes"]],
        _unpack(part["targets"], arrays), calls, part["steps"],
    )  # fmt: skip


def _index(scene: Scene, scenes: list[Scene]) -> int:
    """Place of a scene, the very object, among those to write."""
    for index, other in enumerate(scenes):
        if other is scene:
            return index
    scenes.append(scene)
    return len(scenes) - 1


def _pack(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    """Nested dicts and lists as JSON, tensors in them as names of entries of ``arrays``."""
    if isinstance(value, Tensor):
        name = f"a{len(arrays)}"
        arrays[name] = value.detach().cpu().numpy()
        return {_ARRAY: name}
    if isinstance(value, dict):
        return {key: _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, arrays) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a state holds a {type(value).__name__}; tensors, numbers and texts can be written")


def _unpack(value: Any, arrays: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        return arrays[value[_ARRAY]] if _ARRAY in value else {k: _unpack(v, arrays) for k, v in value.items()}
    return [_unpack(item, arrays) for item in value] if isinstance(value, list) else value


def _write_ground(scene: Scene, folder: Path) -> None:
    """What physics needs of a scene: never its splats."""
    folder.mkdir()
    scene.heightfield.save_npz(folder / "heightfield.npz")
    for name, write in (("mesh", "save_ply"), ("paths", "save_npz")):
        try:
            member = getattr(scene, name)
        except InputError:
            continue  # a scene made without that member: physics did not need it
        getattr(member, write)(folder / f"{name}{'.ply' if write == 'save_ply' else '.npz'}")


def _read_ground(folder: Path, name: str, metadata: dict[str, Any]) -> Scene:
    mesh, paths = folder / "mesh.ply", folder / "paths.npz"
    return Scene(
        name,
        mesh=Mesh.load_ply(mesh) if mesh.exists() else None,
        heightfield=Heightfield.load_npz(folder / "heightfield.npz"),
        paths=Paths.load_npz(paths) if paths.exists() else None,
        metadata=metadata,
    )
