"""Command `gaussgym-learn`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from gaussgym_deploy.bundle import BundleError
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_scene import command
from gaussgym_scene.errors import InputError

if TYPE_CHECKING:
    from gaussgym_learn.recipes import Recipe


@dataclass
class RunOptions:
    """What every training has."""

    minutes: float | None = None
    """Training time [min], of all resumed parts together."""
    iterations: int | None = None
    """Updates, instead of or beside minutes."""
    init_from: Path | None = None
    """Run folder whose networks to start from (of a student: fine-tuning)."""
    resume: bool = False
    """Go on from the checkpoint in the run folder if there is one."""
    seed: int = 0
    """Of everything random."""
    num_envs: int | None = None
    """Environments (of a student: rendered ones); default: the recipe's."""
    save_minutes: float = 2.0
    """Time between checkpoints [min]."""
    renderer: str = "auto"
    """Backend of the camera, for recipes that see."""
    camera_model: str | None = None
    """Lens, shutter and sensor of the camera, for recipes that see: ideal, robot, varied (a robot's, in a world whose light
    and paint vary), or a .json file of `compare` or of `gaussgym-deploy calibrate`; default: the recipe's, ideal."""
    randomize: str | None = None
    """Ranges of physics: a preset's name or a .json file of `compare`; default: the recipe's."""
    show_robot: bool = False
    """Draw the robot's own body into its images, for recipes that see."""
    show_others: int | None = None
    """Draw up to so many other robots of the same scene, the nearest, without contact; default: the recipe's, 0."""
    lod: list[Path] | None = None
    """Folders of gaussgym-render optimize, one a scene in the same order, to render instead of the scenes' full splats."""
    wandb: bool = False
    """Also log to Weights & Biases (offline unless WANDB_MODE says otherwise)."""
    scene_memory_gb: float | None = None
    """Most that the camera's scenes may take in memory [GB]; they then take turns. Default: all are in memory."""
    scene_cache: Path | None = None
    """Folder for the packed files of scenes that take turns; default: the user's cache folder."""
    scenes_at_once: int | None = None
    """Scenes in the simulator at a time; default: all."""
    rotate_every: int = 10
    """With scenes at once: updates after which one scene gives way to the next."""

    def arguments(self) -> dict[str, Any]:
        """What `train` and `distill` take by these names; the rest belongs into the recipe."""
        from gaussgym_learn.rotation import ScenesCfg

        named = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("num_envs", "camera_model", "show_robot", "show_others", "randomize"):
            del named[name]
        memory = ScenesCfg(
            named.pop("scene_memory_gb"),
            named.pop("scene_cache"),
            named.pop("scenes_at_once"),
            named.pop("rotate_every"),
        )
        return {**named, "memory": memory, "progress": True}

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with what was said about camera and physics."""
        given: dict[str, Any] = {"show_robot": recipe.show_robot or self.show_robot}
        if self.camera_model is not None:
            given["camera_model"] = self.camera_model
        if self.show_others is not None:
            given["show_others"] = self.show_others
        if self.randomize is not None:
            from gaussgym_sim.presets import randomize_preset

            given["env"] = replace(recipe.env, randomize=randomize_preset(self.randomize))
        return replace(recipe, **given)


@dataclass
class Train:
    """Train a recipe with PPO (its networks see the terrain, or with `pixels` the camera)."""

    recipe: tyro.conf.Positional[str]
    """teacher_flat, teacher_rough, teacher_stairs or pixels."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; without any, the recipe's own course."""
    output: Path = Path("runs/train")
    """Run folder."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)

    def run(self) -> Path:
        """Train and return the checkpoint's path."""
        from gaussgym_learn.courses import default_course
        from gaussgym_learn.recipes import get_recipe
        from gaussgym_learn.train import train

        recipe = get_recipe(self.recipe)
        options = self.options
        if options.num_envs is not None:
            recipe = replace(recipe, ppo=replace(recipe.ppo, num_envs=options.num_envs))
        recipe = options.applied(recipe)
        scenes = self.scenes or default_course(self.recipe, seed=options.seed)
        return train(recipe, scenes, self.output, **options.arguments())


@dataclass
class Evaluate:
    """Run one episode from each of a fixed set of starts and report success, falls and errors as JSON."""

    policy: tyro.conf.Positional[Path]
    """Run folder or policy bundle."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders."""
    task: str = "goal"
    """`goal`: reach a goal 10 m along the path; `velocity`: follow velocity commands; or another registered task."""
    episodes: int = 256
    """Number of starts."""
    ablate: Literal["none", "blank", "shuffled"] = "none"
    """What to do to the camera images."""
    seed: int = 1234
    """Of the starts."""
    renderer: str = "auto"
    """Backend of the camera."""
    camera_model: str = "ideal"
    """Lens, shutter and sensor of the camera (ideal, robot, varied)."""
    show_robot: bool = False
    """Draw the robot's own body into its images."""
    show_others: int = 0
    """Draw up to so many other robots of the same scene, the nearest; they do not touch."""
    lod: list[Path] | None = None
    """Folders of gaussgym-render optimize, one a scene in the same order, to render instead of the scenes' full splats."""
    record: Path | None = None
    """Write the trajectory and camera frames of one episode to this npz."""
    json: Path | None = None
    """Write the result here; without it, on stdout."""

    def run(self) -> Path | None:
        """Evaluate and write the JSON."""
        from gaussgym_learn.checkpoint import write_bytes
        from gaussgym_learn.evaluate import evaluate
        from gaussgym_learn.train import torch_threads

        if not self.scenes:
            raise InputError("no scene given; add --scenes DIR [DIR ...]")
        with torch_threads(1):
            result = evaluate(
                self.policy,
                self.scenes,
                task=self.task,
                episodes=self.episodes,
                ablate=self.ablate,
                seed=self.seed,
                renderer=self.renderer,
                camera_model=self.camera_model,
                show_robot=self.show_robot,
                show_others=self.show_others,
                lod=self.lod,
                record=self.record,
                progress=True,
            )
        text = json.dumps(result, indent=1)
        if self.json is None:
            print(text)
            return None
        self.json.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.json, f"{text}\n".encode())
        return self.json


@dataclass
class Distill:
    """Teach a student that sees pixels what a teacher that knows the terrain does (DAgger)."""

    teacher: tyro.conf.Positional[Path]
    """Run folder of the teacher."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders; environments are split over them evenly (name one twice to double its share)."""
    output: Path = Path("runs/student")
    """Run folder."""
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = field(default_factory=RunOptions)

    def run(self) -> Path:
        """Distill and return the checkpoint's path."""
        from gaussgym_learn.distill import distill
        from gaussgym_learn.recipes import get_recipe

        if not self.scenes:
            raise InputError("no scene given; add --scenes DIR [DIR ...]")
        recipe = get_recipe("distill")
        options = self.options
        if options.num_envs is not None:
            recipe = replace(recipe, distill=replace(recipe.distill, num_envs=options.num_envs))
        recipe = options.applied(recipe)
        return distill(self.teacher, self.scenes, self.output, recipe=recipe, **options.arguments())


@dataclass
class Export:
    """Write a policy bundle: ONNX networks, manifest and a golden trace recorded in a scene.

    Only what a robot can run: a policy of joint targets that reads proprioception and, if it sees, one camera. `gaussgym-deploy
    check` says whether it runs here, `gaussgym-deploy schema` what stands in it.
    """

    checkpoint: tyro.conf.Positional[Path]
    """Run folder of a student, or of any policy that reads no more than proprioception."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folder; the trace of 250 control steps is recorded in the first."""
    output: Path = Path("runs/policy")
    """Bundle folder; replaced as a whole."""
    renderer: str = "auto"
    """Backend of the camera."""

    def run(self) -> Path:
        """Export and return the manifest's path."""
        from gaussgym_learn.export import export_policy
        from gaussgym_learn.train import torch_threads

        if not self.scenes:
            raise InputError("no scene given; add --scenes DIR")
        with torch_threads(1):
            return export_policy(self.checkpoint, self.output, self.scenes[0], renderer=self.renderer)


@dataclass
class Robot:
    """Be a simulated robot (plain MuJoCo, camera rendered from the scene's splats) for a runtime: over shared memory, or on
    Unitree's DDS topics like a Go2, with the camera's frames alone in shared memory.
    """

    scene: Path
    """Scene folder."""
    shm: str
    """Name of the shared memory (with DDS: of the camera's; empty: no camera)."""
    link: Literal["shm", "dds"] = "shm"
    """How the runtime speaks to it."""
    domain: int | None = None
    """DDS domain on the loopback interface."""
    until_orphaned: bool = False
    """With DDS: end when the process that started this one has died."""
    bundle: Path | None = None
    """Policy bundle; gives robot and camera."""
    lockstep: bool = True
    """Physics waits for commands; else it runs in real time."""
    endless: bool = False
    """Episodes never end, whatever happens to the robot."""
    starts: Path | None = None
    """JSON file of starts; default: those of `evaluate` on this scene."""
    episodes: int = 256
    """Number of default starts."""
    renderer: str = "auto"
    """Backend of the camera."""
    episodes_out: Path | None = None
    """File for one JSON line an episode: success, errors, energy."""
    paths_out: Path | None = None
    """File for the paths from every start to its goal, written before the link comes up."""
    film: Path | None = None
    """Film (mp4) of the first episode, third person and robot's camera, rendered when the link is closed."""
    options: Annotated[SimulatedRobotCfg, tyro.conf.arg(name="")] = field(default_factory=SimulatedRobotCfg)

    def run(self) -> None:
        """Serve until the runtime closes the link (DDS: until told to stop)."""
        from gaussgym_learn.robot.dds import DdsServeCfg, serve_dds
        from gaussgym_learn.robot.serving import ServeCfg, serve_robot
        from gaussgym_learn.train import torch_threads

        if (self.link == "dds") != (self.domain is not None):
            raise InputError("--link dds and --domain N go together")
        with torch_threads(1):
            if self.domain is not None:
                serve_dds(
                    self.scene,
                    DdsServeCfg(self.domain, self.shm or None, self.until_orphaned),
                    bundle=self.bundle,
                    starts=self.starts,
                    episodes=self.episodes,
                    renderer=self.renderer,
                    options=self.options,
                )
                return
            serve_robot(
                self.scene,
                self.shm,
                bundle=self.bundle,
                starts=self.starts,
                episodes=self.episodes,
                renderer=self.renderer,
                options=self.options,
                serve=ServeCfg(self.lockstep, self.endless, self.episodes_out, self.paths_out, self.film),
            )


@dataclass
class Compare:
    """Replay a robot's flight recording in simulation, report the gap, fit what explains it, write a preset to train with."""

    log: tyro.conf.Positional[Path]
    """Folder of a flight recording (flight.npz, flight.json)."""
    scene: Path
    """Scene folder: where it was recorded."""
    bundle: Path | None = None
    """Policy bundle whose camera took the images."""
    json: Path | None = None
    """Write the report here; without it, only in words."""
    preset: Path | None = None
    """Write a randomization preset here (`train --randomize`, `train --camera-model`)."""
    picture: Path | None = None
    """Draw measured and simulated joint angles into this file."""
    segments: int = 100
    """Pieces of the log that are replayed, at most."""
    horizon: int = 3
    """Control steps a piece."""
    odometry_in_scene: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Where the odometry's frame lies in the scene: x, y, z [m], yaw [rad]."""
    images: int = 24
    """Camera images compared with the scene, at most."""
    renderer: str = "auto"
    """Backend of the splat renderer."""

    def run(self) -> Path | None:
        """Compare; write report, preset and picture."""
        from gaussgym_learn.gap.compare import CompareCfg, compare, describe, read_camera, show, write_json
        from gaussgym_learn.train import torch_threads

        if self.segments < 10 or self.horizon < 1:
            raise InputError(
                f"segments {self.segments}, horizon {self.horizon}; expected at least 10 pieces of at least 1 control step"
            )
        cfg = CompareCfg(self.segments, self.horizon, self.odometry_in_scene, self.images, self.renderer)
        with torch_threads(1):
            report, preset = compare(
                self.log,
                self.scene,
                cfg,
                camera=read_camera(self.bundle),
                picture=self.picture,
                progress=show,
            )
        print(describe(report))
        written = self.picture
        for path, values in ((self.json, report), (self.preset, preset)):
            written = written if path is None else write_json(path, values)
        return written


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Robot, tyro.conf.subcommand("robot")]
    | Annotated[Compare, tyro.conf.subcommand("compare")]
)


def main() -> None:
    """Entry point."""

    def chosen() -> Path | None:
        try:
            return tyro.cli(Command, prog="gaussgym-learn", description=__doc__).run()  # type: ignore[arg-type]
        except BundleError as error:  # of options that deploy defines, and its links
            raise InputError(str(error)) from None

    sys.exit(command.run(chosen))


if __name__ == "__main__":
    main()
