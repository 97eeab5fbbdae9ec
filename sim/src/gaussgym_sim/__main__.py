"""Command `gaussgym-sim`: check a physics backend, measure its speed, repeat what went wrong, import."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from gaussgym_scene.command import run
from gaussgym_scene.errors import StageError
from gaussgym_scene.scene import Scene
from tqdm import tqdm

from gaussgym_sim.bench.command import Bench
from gaussgym_sim.engines.host_view import HostView
from gaussgym_sim.grounds import flat_scene
from gaussgym_sim.testing import CONFORMANCE, CheckResult, MakeSim, missing
from gaussgym_sim.testing_robots import check_robot
from gaussgym_sim.vecsim import VecSim, make_sim


@dataclass
class Check:
    """Compare a physics backend with analytic truth: fall, stance, friction, terrain, frames, determinism, bad states.

    The truth is written for a Go1; another robot is checked for its own sake: it stands on a slope (four legs), holds its pose
    when hung from its base, and how long it takes to fall is told.
    """

    backend: str = "mujoco"
    """Physics backend."""
    robot: str = "go1"
    """Registered robot."""
    device: str = "cpu"
    """Where physics is computed."""

    def run(self) -> None:
        """Print one line a check; fail if one fails."""

        def make(scenes: list[Scene], num_envs: int, *, num_threads: int | None = None) -> VecSim:
            sim = make_sim(
                self.backend, self.robot, scenes, num_envs, device=self.device, num_threads=num_threads
            )
            return sim if sim.device.type == "cpu" else HostView(sim, sim.device)  # type: ignore[return-value]

        robot = make([flat_scene()], 1).robot  # a wrong name is told before the bar starts
        results = self._conformance(make) if robot.name == "go1" else check_robot(make, robot)
        for r in results:
            mark = "ok  " if r.passed else "FAIL"
            print(
                f"{mark}  {r.name:<44} {r.measured:10.5g}  expected {r.expected:.5g} +- {r.tolerance:.2g} {r.unit}"
            )
        failed = [r.name for r in results if not r.passed]
        if failed:
            raise StageError(f"{len(failed)} of {len(results)} checks failed: {', '.join(failed)}")

    def _conformance(self, make: MakeSim) -> list[CheckResult]:
        results = []
        for check in tqdm(CONFORMANCE, desc="check", unit="check"):
            if lacking := missing(check, make):
                print(f"skip  {check.__name__}: {self.backend} has no {', '.join(sorted(lacking))}")
            else:
                results += check(make)
        return results


@dataclass
class Replay:
    """Repeat what a NaN guard saved, to the bit, and show the environment's last steps up to where it went wrong."""

    folder: tyro.conf.Positional[Path]
    """What the guard wrote, step-..."""
    last: int = 10
    """Steps to show."""
    threads: int | None = None
    """Physics threads; the result does not depend on them."""

    def run(self) -> None:
        """Print a line a step, and whether everything came out as it was recorded."""
        from gaussgym_sim.views.nan_guard import Finding
        from gaussgym_sim.views.replay import Repetition, load_replay

        replay = load_replay(self.folder)
        repetition = Repetition(replay, num_threads=self.threads)
        rows = list(tqdm(repetition, total=replay.num_steps, desc="replay", unit="step"))
        print(f"environment {repetition.env}: base height [m], speed [m/s], joint speed [rad/s], torque [Nm]")
        for r in rows[-self.last :]:
            print(
                f"step {r.step:>8}  {r.base_height_m:9.4g} {r.base_speed_m_s:9.4g} {r.max_joint_speed_rad_s:9.4g} "
                f"{r.max_torque_nm:9.4g}{'  physics not finite' if r.invalid else ''}"
            )
        print(Finding(**replay.settings["finding"]))
        if different := repetition.differences():
            raise StageError(
                f"{self.folder}: the repetition differs from what was recorded in {', '.join(different)}; expected the "
                "same bits: another version of the physics engine, or another kind of machine?"
            )
        print("repeated to the bit")


@dataclass
class ImportActuator:
    """Turn a TorchScript actuator network (MLP or LSTM) into a file for a robot's ActuatorCfg(kind="net", net=FILE)."""

    file: tyro.conf.Positional[Path]
    """What torch.jit.save wrote. An MLP takes [N, 2n]: n position errors [rad], newest first, then n velocities [rad/s]; an LSTM
    takes [N, 1, 2] and its memory, and returns torque and memory."""
    output: Path
    """File to write (.npz)."""
    kind: Literal["auto", "mlp", "lstm"] = "auto"
    """What it must be."""
    history: tuple[int, ...] | None = None
    """An MLP's times in substeps of 5 ms ago; by default 0 1 2 ..."""
    order: Literal["error_first", "velocity_first"] = "error_first"
    """Of the inputs."""
    activation: Literal["auto", "identity", "relu", "elu", "tanh", "sigmoid", "softsign"] = "auto"
    """Between dense layers; by default the one with which the torques agree."""
    error_scale: float = 1.0
    """Factor on errors, target less position, outside the module; -1 for one that takes position less target."""
    velocity_scale: float = 1.0
    """Factor on velocities outside the module."""
    torque_scale: float = 1.0
    """Factor on the module's output that gives Nm."""

    def run(self) -> Path:
        """Write the file; return its path."""
        from gaussgym_sim.actuation.import_actuator import import_torchscript

        options = {k: v for k, v in vars(self).items() if k not in ("file", "output")}
        net = import_torchscript(self.file, self.output, **options)
        print(
            f"{len(net.lstm)} LSTM and {len(net.dense)} dense layers, {net.activation}, torques as the module's"
        )
        return self.output


@dataclass
class ImportRobot:
    """Turn a URDF or an MJCF into a robot of your own, after checks of inertias, limits, motors and shapes."""

    file: tyro.conf.Positional[Path]
    """The robot's .urdf, or MuJoCo's .xml."""
    name: str
    """Of the robot and its folder."""
    output: Path
    """Folder in which NAME/robot.json and NAME/robot.xml are written; --robot NAME/robot.json then names the robot everywhere."""
    armature: float = 0.01
    """Rotor inertia of a URDF's joints, seen from the joint [kg m^2]; a URDF has none."""

    def run(self) -> Path:
        """Print what was guessed; return the path of robot.json."""
        from gaussgym_sim.robot_import.import_robot import import_robot, notes_of

        written = import_robot(self.file, name=self.name, output=self.output, armature=self.armature)
        print("\n".join(notes_of(written)))
        return written


def main() -> None:
    """Entry point of `gaussgym-sim`."""
    chosen = tyro.extras.subcommand_cli_from_dict(
        {
            "check": Check,
            "bench": Bench,
            "replay": Replay,
            "import-actuator": ImportActuator,
            "import-robot": ImportRobot,
        },
        prog="gaussgym-sim",
    )
    sys.exit(run(chosen.run))


if __name__ == "__main__":
    main()
