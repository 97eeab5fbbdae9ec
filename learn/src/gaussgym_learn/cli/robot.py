"""`gaussgym-learn robot`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from gaussgym_deploy.simulated_robot import SimulatedRobotCfg
from gaussgym_scene.errors import InputError


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
        from gaussgym_learn.run import torch_threads

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
