"""DAgger: a teacher that knows the terrain shows a student that sees pixels what to do."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from gaussgym_scene.errors import InputError, StageError
from rsl_rl.models import MLPModel
from torch import nn

from gaussgym_learn.checkpoint import (
    Checkpoint,
    check_compatible,
    check_same_run,
    copy_checkpoint,
    load_checkpoint,
    load_or_explain,
)
from gaussgym_learn.distributed import World
from gaussgym_learn.env import LearnEnv
from gaussgym_learn.metrics import EpisodeStatistics, RolloutTimes, gradient_norms
from gaussgym_learn.models import (
    IMAGE_GROUP,
    NEW_FRAME_GROUP,
    VisionRNNModel,
    build_actor,
    load_actor_weights,
)
from gaussgym_learn.recipes import Recipe
from gaussgym_learn.resume import load_process_state, process_seed, process_state
from gaussgym_learn.rotation import ScenesCfg


def teacher_share(progress: float, beta_fraction: float) -> float:
    """Probability that the teacher acts, falling linearly from 1 at the start to 0 at `beta_fraction` of the run.

    Args:
        progress: how much of the run is done, 0..1.
        beta_fraction: where it reaches 0; 0 means that the student acts from the start.
    """
    return 0.0 if beta_fraction <= 0.0 else max(0.0, 1.0 - progress / beta_fraction)


def distillation_loss(
    actions: torch.Tensor,
    teacher_actions: torch.Tensor,
    aux: torch.Tensor | None,
    aux_target: torch.Tensor | None,
    *,
    huber_delta: float,
    aux_weight: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Huber loss on the actions plus the weighted mean squared error of the reconstruction.

    Returns:
        (total, behaviour loss, reconstruction loss), scalars.
    """
    behaviour = nn.functional.huber_loss(actions, teacher_actions, delta=huber_delta)
    if aux is None or aux_target is None:
        return behaviour, behaviour, behaviour.new_zeros(())
    reconstruction = nn.functional.mse_loss(aux, aux_target)
    return behaviour + aux_weight * reconstruction, behaviour, reconstruction


@dataclass
class Segment:
    """A rollout of T steps of E environments, with every camera frame once.

    Attributes:
        proprio: `[T, E, P]` the student's 1-D observations, raw.
        frames: uint8 `[F, C, H, W]` the distinct camera frames.
        frame_index: long `[T, E]` the frame that was in view.
        teacher_actions: `[T, E, A]`.
        aux_target: `[T, E, S]` or None.
        starts: bool `[T, E]`, the memory is empty before this step.
        hidden: `[layers, E, H]` memory before the first step.
    """

    proprio: torch.Tensor
    frames: torch.Tensor
    frame_index: torch.Tensor
    teacher_actions: torch.Tensor
    aux_target: torch.Tensor | None
    starts: torch.Tensor
    hidden: torch.Tensor


def replay(
    student: VisionRNNModel, segment: Segment, envs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The student's actions and reconstruction over a segment, with gradients through time.

    Args:
        student: the model.
        segment: the rollout.
        envs: long `[B]`, the environments to replay; only frames that they saw are encoded.

    Returns:
        actions `[T, B, A]` and reconstruction `[T, B, S]` or None.
    """
    index = segment.frame_index[:, envs]
    used, local = torch.unique(index, return_inverse=True)
    features = student.encoder(segment.frames[used])[local]
    proprio = student.obs_normalizer(segment.proprio[:, envs])
    inputs = torch.cat([proprio, features], dim=-1)
    keep = (~segment.starts[:, envs]).float()
    hidden = segment.hidden[:, envs]
    outputs = []
    for t in range(inputs.shape[0]):
        out, hidden = student.rnn.rnn(inputs[t : t + 1], hidden * keep[t][None, :, None])
        outputs.append(out)
    latent = torch.cat([torch.cat(outputs), proprio], dim=-1)
    actions = student.distribution.deterministic_output(student.mlp(latent))  # type: ignore[union-attr]
    return actions, student.predict_aux(latent) if student.aux_head is not None else None


class DistillTrainer:
    """One distillation run.

    Args:
        recipe: its `network` is the student's, its `distill` the settings.
        env: rendered environments whose observations hold what teacher and student read.
        teacher: deterministic policy on `teacher_groups`.
        seed: of everything random.
        world: the processes that train together.
    """

    def __init__(
        self, recipe: Recipe, env: LearnEnv, teacher: MLPModel, *, seed: int = 0, world: World | None = None
    ) -> None:
        torch.manual_seed(seed)
        self.recipe, self.env, self.teacher, self.seed = recipe, env, teacher, seed
        self.world = world or World()
        student = build_actor(recipe.network, env.layout, env.num_actions)
        if not isinstance(student, VisionRNNModel):
            raise InputError(
                f"recipe {recipe.name!r}: its actor does not read {IMAGE_GROUP!r}, nothing to distill to"
            )
        self.student = student
        self.optimizer = torch.optim.Adam(student.parameters(), lr=recipe.distill.learning_rate)
        self.iteration = 0
        self.steps = 0
        self.progress = 0.0
        self.stats = EpisodeStatistics(env.num_envs)
        if self.world.rank > 0:
            torch.manual_seed(process_seed(seed, 0, self.world.rank))
        self.restart()

    def restart(self) -> None:
        """See `PPOTrainer.restart`."""
        self.student.reset()
        self.stats.restart()
        self._starts = torch.ones(self.env.num_envs, dtype=torch.bool)
        self.obs = self.env.reset(seed=process_seed(self.seed, self.iteration, self.world.rank))

    def collect(self, beta: float, times: RolloutTimes | None = None) -> Segment:
        """Roll out; in each environment the teacher acts over the whole segment with probability `beta`.

        Args:
            beta: see `teacher_share`.
            times: of this rollout; None: nobody asks.
        """
        times = times or RolloutTimes(self.env)
        cfg, env, student = self.recipe.distill, self.env, self.student
        group = student.aux_group
        hidden = student.get_hidden_state()
        if hidden is None:
            hidden = torch.zeros(student.rnn.rnn.num_layers, env.num_envs, student.rnn.rnn.hidden_size)
        hidden = hidden.clone()  # type: ignore[union-attr]
        teacher_acts = (torch.rand(env.num_envs) < beta)[:, None]
        rows: dict[str, list[torch.Tensor]] = {
            k: [] for k in ("proprio", "index", "teacher", "aux", "starts")
        }
        frames: list[torch.Tensor] = []
        current, count = torch.zeros(env.num_envs, dtype=torch.long), 0
        for t in range(cfg.steps):
            obs = self.obs
            new = obs[NEW_FRAME_GROUP][:, 0] != 0 if t > 0 else torch.ones(env.num_envs, dtype=torch.bool)
            fresh = int(new.sum())
            if fresh:
                frames.append(obs[IMAGE_GROUP][new].clone())
                current = current.clone()
                current[new] = torch.arange(count, count + fresh)
                count += fresh
            wanted = self.teacher(obs)
            own = student(obs)
            for key, value in (
                ("proprio", torch.cat([obs[g] for g in student.obs_groups], dim=-1)),
                ("index", current),
                ("teacher", wanted),
                ("starts", self._starts),
            ):
                rows[key].append(value.clone())
            if group is not None:
                rows["aux"].append(obs[group].clone())
            actions = torch.where(teacher_acts, wanted, own)
            actions = actions + cfg.action_noise * torch.randn_like(actions)
            with times.stepping():
                self.obs, rewards, dones, extras = env.step(actions)
            student.reset(dones)
            self._starts = dones > 0
            self.stats.add(rewards, dones, extras)
        return Segment(
            torch.stack(rows["proprio"]),
            torch.cat(frames),
            torch.stack(rows["index"]),
            torch.stack(rows["teacher"]),
            torch.stack(rows["aux"]) if group is not None else None,
            torch.stack(rows["starts"]),
            hidden,
        )

    def update(self, segment: Segment) -> dict[str, float]:
        """Gradient steps on a segment, `mini_batches` groups of environments an epoch."""
        cfg, student = self.recipe.distill, self.student
        student.obs_normalizer.update(segment.proprio.flatten(0, 1))  # type: ignore[operator]
        sums = torch.zeros(3)
        count = 0
        for _ in range(cfg.epochs):
            for envs in torch.randperm(self.env.num_envs).chunk(cfg.mini_batches):
                actions, aux = replay(student, segment, envs)
                target = None if segment.aux_target is None else segment.aux_target[:, envs]
                losses = distillation_loss(
                    actions,
                    segment.teacher_actions[:, envs],
                    aux,
                    target,
                    huber_delta=cfg.huber_delta,
                    aux_weight=cfg.aux_weight,
                )
                self.optimizer.zero_grad()
                losses[0].backward()
                nn.utils.clip_grad_norm_(student.parameters(), cfg.max_grad_norm)
                self.optimizer.step()
                sums += torch.stack([x.detach() for x in losses])
                count += 1
        student._held_features = None
        total, behaviour, reconstruction = (sums / count).tolist()
        return {"Loss/distill": total, "Loss/behaviour": behaviour, "Loss/aux_recon": reconstruction}

    def iterate(self) -> dict[str, float]:
        """One segment and its gradient steps; returns the scalars to log.

        Raises:
            StageError: the student has diverged.
        """
        start = time.perf_counter()
        times = RolloutTimes(self.env)
        cfg = self.recipe.distill
        self.student.train()
        beta = teacher_share(self.progress, cfg.beta_fraction)
        with torch.no_grad():
            segment = self.collect(beta, times)
        self.stats.check_rewards()
        collected = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = cfg.learning_rate * (1.0 - 0.9 * self.progress)
        losses = self.update(segment)
        learned = time.perf_counter()
        if not math.isfinite(losses["Loss/distill"]):
            raise StageError(f"distillation diverged at update {self.iteration}; resume with another seed")
        self.iteration += 1
        self.steps += cfg.steps * self.env.num_envs * self.world.size
        return {
            **self.stats.summary(),
            **losses,
            **gradient_norms({"student": self.student}),
            "Distill/teacher_share": beta,
            "Perf/total_fps": cfg.steps * self.env.num_envs / (learned - start),
            **times.summary(collected - start),
            "Perf/learning_time": learned - collected,
            "Perf/camera_frames": float(len(segment.frames)),
        }

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs."""
        return {
            "actor_state_dict": self.student.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "steps": self.steps,
            "process": process_state(self.env, self.stats, (self.student,), starts=self._starts.clone()),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint of the same recipe was written."""
        state = checkpoint.state
        load_or_explain(checkpoint, lambda: self.student.load_state_dict(state["actor_state_dict"]))
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        self.iteration = int(checkpoint.fields["iteration"])
        self.steps = int(state["steps"])
        episodes = None
        if state["process"] is not None:
            episodes = load_process_state(state["process"], self.env, self.stats, (self.student,))
        if episodes is None:
            self.restart()
        else:
            self.obs, self._starts = self.env.get_observations(), episodes["starts"]

    def warm_start(self, checkpoint: Checkpoint) -> None:
        """Take the student's weights from another run."""
        state = checkpoint.state["actor_state_dict"]
        load_or_explain(checkpoint, lambda: load_actor_weights(self.student, state))


def distill(
    teacher: Path | str,
    scenes: Any,
    out: Path | str,
    *,
    recipe: Recipe | None = None,
    minutes: float | None = None,
    iterations: int | None = None,
    init_from: Path | str | None = None,
    resume: bool = False,
    seed: int = 0,
    robot: str = "go1",
    sim: str = "mujoco",
    renderer: str = "auto",
    save_minutes: float = 2.0,
    save_iterations: int | None = None,
    wandb: bool = False,
    wandb_group: str | None = None,
    memory: ScenesCfg | None = None,
    progress: bool = False,
    on_iteration: Callable[[Any, dict[str, float]], None] | None = None,
    make: Callable[[], LearnEnv] | None = None,
    lod: Sequence[Path | str] | None = None,
) -> Path:
    """Distill a teacher into a student that sees.

    Args:
        teacher: run folder of the privileged teacher.
        scenes: `Scene`s or folders; environments are split over them evenly.
        out: run folder.
        recipe: default `recipes.distill`.
        minutes: see `gaussgym_learn.train.train`.
        iterations: see there.
        init_from: run folder of a student to start from; the teacher then never acts (no beta schedule).
        resume: see there.
        seed: see there.
        robot: see there.
        sim: see there.
        renderer: backend of the camera.
        save_minutes: see there.
        save_iterations: see there.
        wandb: see there.
        wandb_group: see there.
        memory: see there.
        progress: see there.
        on_iteration: see there.
        make: makes the environment instead of `make_env`.
        lod: see `gaussgym_learn.train.train`.

    Returns:
        The path of `checkpoint.json`.

    Raises:
        InputError: nothing to bound the run, or a teacher or student that does not fit.
    """
    from gaussgym_learn.acting import CheckpointPolicy
    from gaussgym_learn.commanding import make_policy_env
    from gaussgym_learn.env import listed
    from gaussgym_learn.recipes import get_recipe
    from gaussgym_learn.run import Budget, clear_run, open_run, own_part, run_fields, run_training

    if minutes is None and iterations is None:
        raise InputError("distillation is unbounded: give minutes or iterations")
    recipe = recipe or get_recipe("distill")
    if init_from is not None:
        recipe = replace(recipe, distill=replace(recipe.distill, beta_fraction=0.0))
    acting = CheckpointPolicy(load_checkpoint(teacher))
    with open_run(out, resume=resume) as run:
        world, previous = run.world, run.previous
        initial = load_checkpoint(init_from) if init_from is not None and previous is None else None
        if previous is not None:
            check_same_run(previous, recipe.to_dict())
        if make is not None:
            env = make()
        else:
            env = make_policy_env(
                recipe.commanding,
                recipe.task,
                world.part_of(listed(scenes)),
                world.share_of(recipe.distill.num_envs),
                robot=robot,
                sim=sim,
                renderer=renderer,
                seed=process_seed(seed, 0, world.rank),
                cfg=recipe.env_cfg(),
                lod=None if lod is None else world.part_of(lod),
                **recipe.camera_options(),
                memory=memory,
                update_steps=recipe.distill.steps,
            )
        acting.check(env)
        new = recipe if previous is None and initial is None else recipe.without_weights()
        trainer = DistillTrainer(new, env, acting.model, seed=seed, world=world)
        if previous is not None:
            previous = own_part(previous, world, env.num_envs)
        for checkpoint, action in ((initial, trainer.warm_start), (previous, trainer.restore)):
            if checkpoint is not None:
                groups = recipe.network.actor_groups
                check_compatible(checkpoint, robot=env.robot, layout=env.layout, groups=groups)
                action(checkpoint)
        if previous is None and world.writes:
            clear_run(run.out)
        fields = run_fields(recipe, env, seed=seed, init_from=initial, lod=lod)
        fields["teacher"] = {
            "name": acting.checkpoint.directory.name,
            "model_sha256": acting.checkpoint.fields["files"][acting.checkpoint.fields["model"]]["sha256"],
        }
        if previous is not None:
            fields["initialized_from"] = previous.fields.get("initialized_from")
        budget = Budget(minutes, iterations, save_minutes, save_iterations, run.elapsed_s)
        return run_training(
            trainer,
            run,
            fields,
            budget,
            wandb=wandb,
            group=wandb_group,
            progress=progress,
            on_iteration=on_iteration,
        )


def finetune(
    student: Path | str,
    teacher: Path | str,
    scene: Any,
    out: Path | str,
    *,
    training_scenes: Sequence[Any] = (),
    recipe: Recipe | None = None,
    minutes: float,
    episodes: int = 64,
    resume: bool = False,
    seed: int = 0,
    renderer: str = "auto",
    progress: bool = False,
) -> dict[str, Any]:
    """Adapt a student to a new scene, and keep it only if it then does better there.

    The new scene is mixed with the scenes of the student's training, so that it forgets nothing; student before and after are
    evaluated from the same starts in the new scene, and the better one ends up in `out`.

    Args:
        student: run folder of the student.
        teacher: run folder of the teacher.
        scene: the new scene.
        out: run folder of the result.
        training_scenes: scenes of the student's training.
        recipe: default `recipes.distill`.
        minutes: of distillation [min].
        episodes: of each evaluation.
        resume: go on from an interrupted fine-tuning.
        seed: of training.
        renderer: backend of the camera.
        progress: show bars on stderr.

    Returns:
        `{"success_before", "success_trained", "success_after", "kept", "before", "trained"}`; `kept` is `student` or `finetuned`,
        `success_after` that of what was kept. Also written to `<out>/finetune.json`.
    """
    from gaussgym_scene.artifact import write_json

    from gaussgym_learn.evaluate import evaluate

    out = Path(out)
    options: dict[str, Any] = {"episodes": episodes, "renderer": renderer, "progress": progress}
    if recipe is not None:
        options |= recipe.camera_options()
    before = evaluate(student, scene, **options)
    trained_dir = out.with_name(out.name + "_trained")
    # The new scene counts as much as all the old ones together: the environments are split evenly over this list.
    scenes = [scene] * max(1, len(training_scenes)) + list(training_scenes)
    distill(
        teacher,
        scenes,
        trained_dir,
        recipe=recipe,
        minutes=minutes,
        init_from=student,
        resume=resume,
        seed=seed,
        renderer=renderer,
        progress=progress,
    )
    trained = evaluate(trained_dir, scene, **options)
    kept = "finetuned" if trained["success"] > before["success"] else "student"
    copy_checkpoint(trained_dir if kept == "finetuned" else Path(student), out)
    result = {
        "success_before": before["success"],
        "success_trained": trained["success"],
        "success_after": max(before["success"], trained["success"]),
        "kept": kept,
        "before": before,
        "trained": trained,
    }
    write_json(out / "finetune.json", result)
    return result
