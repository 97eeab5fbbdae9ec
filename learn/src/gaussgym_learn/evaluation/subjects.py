"""Who is evaluated: policies with a name, what they see, and the settings that suit them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError
from gaussgym_sim.env import EnvCfg

from gaussgym_learn.acting import ActingPolicy, load_policy, reads
from gaussgym_learn.recipes import with_images

PRIVILEGED = ("base_vel", "scan")


@dataclass
class Subject:
    """A policy to evaluate, or several runs of one recipe.

    Attributes:
        name: in the report.
        runs: the policy, or one policy a training seed; replicate k is run k modulo their number.
        prints: what each of these is, for `Cell.key`.
        senses: `blind`, `depth`, `RGB`, `privileged`, or several of these.
    """

    name: str
    runs: list[ActingPolicy]
    prints: list[str]
    senses: str

    @property
    def sees(self) -> bool:
        """Whether it reads images."""
        return self.runs[0].sees

    def run(self, replicate: int) -> tuple[ActingPolicy, str]:
        """Policy and fingerprint of a replicate."""
        return self.runs[replicate % len(self.runs)], self.prints[replicate % len(self.runs)]


def parse_subjects(words: Sequence[str]) -> list[Subject]:
    """Subjects from the words of a command line: `DIR`, `NAME=DIR` or `NAME=DIR,DIR,DIR` (training seeds).

    Raises:
        InputError: no policy, one that cannot be read, or two of one name.
    """
    found = [_parse(word) for word in words]
    names = [subject.name for subject in found]
    if not found:
        raise InputError("no policy given; expected run folders or policy bundles")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"two policies are called {twice[0]!r}; give names: NAME=DIR")
    return found


def _parse(word: str) -> Subject:
    name, separator, rest = word.partition("=")
    folders = [Path(part) for part in (rest if separator else word).split(",") if part]
    if not folders or (separator and not name):
        raise InputError(f"policy {word!r}: expected DIR, NAME=DIR or NAME=DIR,DIR")
    runs = [load_policy(folder) for folder in folders]
    first = folders[0].parent if folders[0].suffix == ".json" else folders[0]
    return subject(name if separator else first.resolve().name, runs, [fingerprint(f) for f in folders])


def subject(name: str, runs: list[ActingPolicy], prints: list[str]) -> Subject:
    """A subject of policies at hand.

    Raises:
        InputError: runs that see different things.
    """
    if any(set("/~=, ") & set(name)) or not name:
        raise InputError(f"policy name {name!r}: expected no blanks, commas, slashes, tildes or equal signs")
    senses = {senses_of(run) for run in runs}
    if len(senses) > 1:
        raise InputError(f"policy {name!r}: its runs read different things ({', '.join(sorted(senses))})")
    return Subject(name, runs, prints, senses.pop())


def senses_of(policy: ActingPolicy) -> str:
    """What a policy knows of the ground ahead."""
    groups = reads(policy)
    found = [word for group, word in (("rgb", "RGB"), ("depth", "depth")) if group in groups]
    if any(group in groups for group in PRIVILEGED):
        found.append("privileged")
    return "+".join(found) or "blind"


def fingerprint(folder: Path) -> str:
    """Hash of a policy's manifest, which holds the hashes of its files; 16 hex digits."""
    folder = folder.parent if folder.suffix == ".json" else folder
    for name in ("checkpoint.json", "policy.json"):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
    raise InputError(
        f"{folder}: neither checkpoint.json nor policy.json; give a run folder or a policy bundle"
    )


def default_task(policies: Sequence[ActingPolicy]) -> str:
    """The task to evaluate policies in where none is said: that of the first which commands another one, else `goal`."""
    for policy in policies:
        if getattr(policy, "commanding", None) is not None:
            checkpoint: Any = policy
            return str(checkpoint.checkpoint.fields["recipe"]["task"])
    return "goal"


def settings_for(policy: ActingPolicy, cfg: EnvCfg) -> EnvCfg:
    """The settings with the camera and the observations that a policy was trained with.

    Scales and grid of the observations and the image's size, optics and rate belong to the policy, not to the evaluation.
    """
    cfg = with_images(cfg, reads(policy))
    checkpoint: Any = getattr(policy, "checkpoint", None)
    if checkpoint is not None:
        env = checkpoint.fields["recipe"].get("env", {})
        camera = {k: v for k, v in env.get("camera", {}).items() if k != "images"}
        return replace(
            cfg,
            camera=_filled(camera, cfg.camera),
            observations=_filled(env.get("observations", {}), cfg.observations),
        )
    bundle: Any = getattr(policy, "bundle", None)
    if bundle is not None and bundle.camera is not None:
        spec = bundle.camera
        camera = replace(
            cfg.camera,
            width=spec.width,
            height=spec.height,
            focal_px=(spec.fx, spec.fy),
            center_px=(spec.cx, spec.cy),
            position_b_m=tuple(spec.position_b_m),
            quat_b_c_wxyz=tuple(spec.quat_b_c_wxyz),
        )
        return replace(cfg, camera=camera)
    return cfg


def _filled(values: Mapping[str, Any], default: Any) -> Any:
    """A settings dataclass with what a manifest says; what that does not name is as by default."""
    known = {field.name for field in fields(default)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    return replace(default, **given)
