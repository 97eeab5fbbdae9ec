"""`gaussgym-learn evaluate`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from gaussgym_scene.errors import InputError

from gaussgym_learn.cli.collection import required, scenes_of

if TYPE_CHECKING:
    from gaussgym_learn.evaluation.protocol import ProtocolCfg

Ablation = Literal["blank", "shuffled", "frozen", "delayed"]


@dataclass
class Evaluate:
    """Evaluate policies side by side: fixed starts, several seeds, ablated images, sweeps, films, a failure gallery.

    Writes a folder (evaluation.json, results.json, table.md, index.html, plots, videos, gallery). Interrupted, it goes on where
    it was when it is called again. With --json, --record or --ablate it runs one policy once and gives its numbers as JSON.
    """

    policies: tyro.conf.Positional[list[str]]
    """Run folders or policy bundles: DIR, NAME=DIR, or NAME=DIR,DIR,DIR (runs that differ in their training seed)."""
    scenes: list[Path] = field(default_factory=list)
    """Scene folders."""
    collection: Path | None = None
    """File of `gaussgym-learn collection`: evaluate on its held-out scenes, or on those of them that are named."""
    split: Literal["held_out", "train"] = "held_out"
    """Which of a collection."""
    output: Path = Path("evaluation")
    """Folder of the evaluation."""
    task: str | None = None
    """`goal`: reach a goal 10 m along the path; `velocity`: follow velocity commands; or another registered task. Default: goal,
    or that of policies which command another one that walks."""
    episodes: int = 256
    """Number of starts, of each seed."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of the starts; each is a replicate."""
    ablations: tuple[Ablation, ...] = ("blank", "shuffled", "frozen", "delayed")
    """What to do to the camera images of policies that see, beside nothing."""
    delay_s: float = 0.5
    """Of delayed images [s]."""
    sweeps: tuple[str, ...] = ()
    """Things to vary: light, blur, noise, latency, sensor_latency, friction, mass, or all."""
    second_engine: str | None = None
    """Another physics backend to evaluate in, too, such as mjwarp."""
    sim: str = "mujoco"
    """Physics backend."""
    robot: str = "go1"
    """Which robot."""
    randomize: str = "none"
    """World to evaluate in: a preset's name or a .json file of `compare`; none: nominal, without noise."""
    renderer: str = "auto"
    """Backend of the camera."""
    camera_model: str = "ideal"
    """Lens, shutter and sensor of the camera (ideal, robot, varied, or a .json file)."""
    show_robot: bool = False
    """Draw the robot's own body into its images."""
    videos: bool = True
    """Film an episode of each policy and its failures (needs ffmpeg)."""
    max_parallel: int = 256
    """Environments at once."""
    threads: int | None = None
    """Of physics and rendering; default: as many as there are CPUs for it."""
    scenes_at_once: int = 16
    """Scenes in the simulator at once; more are run one batch after the other."""
    json: Path | None = None
    """Evaluate one policy once, and write its numbers here."""
    record: Path | None = None
    """Evaluate one policy once, and write the trajectory and camera frames of one episode to this npz."""
    ablate: Literal["none"] | Ablation | None = None
    """Evaluate one policy once, with this done to its images; without --json the numbers come on stdout."""
    seed: int = 1234
    """Of the starts, where one policy is evaluated once."""
    show_others: int = 0
    """Draw up to so many other robots of the same scene, where one policy is evaluated once; they do not touch."""
    lod: list[Path] | None = None
    """Folders of gaussgym-render optimize, one a scene in the same order, to render instead of the scenes' full splats, where one
    policy is evaluated once."""

    def run(self) -> Path | None:
        """Evaluate and write what was asked for."""
        from gaussgym_learn.run import torch_threads

        folders, _ = scenes_of(self.scenes, self.collection, self.split)
        scenes = list(required(folders))
        once = self.json is not None or self.record is not None or self.ablate is not None
        with torch_threads(1):
            return self._once(scenes) if once else self._protocol(scenes)

    def _protocol(self, scenes: list[Path]) -> Path:
        from gaussgym_learn.evaluation.artifact import evaluate_policies
        from gaussgym_learn.evaluation.subjects import default_task, parse_subjects
        from gaussgym_learn.evaluation.tables import summary

        if self.show_others or self.lod is not None:
            raise InputError("--show-others and --lod are for one policy evaluated once; add --json FILE")
        subjects = parse_subjects(self.policies)
        cfg = self._cfg(self.task or default_task([one.runs[0] for one in subjects]))
        manifest, results = evaluate_policies(
            subjects, scenes, self.output, cfg, videos=self.videos, progress=True
        )
        print(summary(results))
        return manifest

    def _cfg(self, task: str) -> ProtocolCfg:
        from gaussgym_learn.evaluation.protocol import ProtocolCfg

        return ProtocolCfg(
            task=task,
            episodes=self.episodes,
            seeds=self.seeds,
            ablations=self.ablations,
            delay_s=self.delay_s,
            sweeps=self.sweeps,
            second_engine=self.second_engine,
            robot=self.robot,
            sim=self.sim,
            renderer=self.renderer,
            camera_model=self.camera_model,
            randomize=self.randomize,
            show_robot=self.show_robot,
            max_parallel=self.max_parallel,
            threads=self.threads,
            scenes_at_once=self.scenes_at_once,
        )

    def _once(self, scenes: list[Path]) -> Path | None:
        from gaussgym_learn.acting import load_policy
        from gaussgym_learn.checkpoint import write_bytes
        from gaussgym_learn.evaluate import evaluate
        from gaussgym_learn.evaluation.subjects import default_task

        if len(self.policies) != 1:
            raise InputError(
                f"found {len(self.policies)} policies with --json, --record or --ablate; expected one"
            )
        policy = load_policy(Path(self.policies[0].partition("=")[2] or self.policies[0]))
        result = evaluate(
            policy,
            scenes,
            task=self.task or default_task([policy]),
            episodes=self.episodes,
            ablate=self.ablate or "none",
            delay_s=self.delay_s,
            seed=self.seed,
            robot=self.robot,
            sim=self.sim,
            renderer=self.renderer,
            camera_model=self.camera_model,
            show_robot=self.show_robot,
            show_others=self.show_others,
            lod=self.lod,
            record=self.record,
            threads=self.threads,
            progress=True,
        )
        text = json.dumps(result, indent=1)
        if self.json is None:
            print(text)
            return None
        self.json.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.json, f"{text}\n".encode())
        return self.json
