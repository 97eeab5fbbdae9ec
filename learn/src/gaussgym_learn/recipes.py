"""Training recipes: networks, PPO settings and environment settings that belong together.

The numbers of `teacher_flat` are a measured recipe (a Go1 trots after one to two minutes on two cores); the other recipes
are its warm-started continuations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from typing import Any

from gaussgym_scene.errors import InputError
from gaussgym_scene.registry import Registry
from gaussgym_sim.env import EnvCfg
from gaussgym_sim.mdp.rewards import RewardCfg
from gaussgym_sim.randomize import RandomizeCfg

from gaussgym_learn.photometric import PhotometricCfg
from gaussgym_learn.schedules import Schedule

RECIPES: Registry[Callable[[], Recipe]] = Registry("recipe", "gaussgym.recipes")
"""Functions that make recipes, by name; another package adds one by an entry point of group ``gaussgym.recipes``."""

TEACHER_GROUPS = ("proprio", "base_vel", "scan")
STUDENT_GROUPS = ("proprio", "rgb")
IMAGE_GROUPS = ("rgb", "depth")
"""Observation groups that are images, uint8 `[E, C, H, W]`."""


@dataclass(frozen=True)
class NetworkCfg:
    """Actor and critic.

    Attributes:
        actor_groups: observation groups the actor reads; with `rgb` or `depth`, or both, it is an image encoder and a recurrent
            network, else an MLP.
        critic_groups: observation groups the critic reads (privileged).
        actor_hidden: widths of the actor's MLP (behind the GRU, if it has one).
        critic_hidden: widths of the critic's MLP.
        init_std: initial standard deviation of the actions [action units].
        rnn_hidden: width of the recurrent network.
        feature_dim: length of the image feature.
        aux_group: observation group that the auxiliary head reconstructs, None for no head.
        rnn_type: `gru` or `lstm`.
        rnn_layers: its layers.
        encoder: name in `gaussgym_learn.encoders.ENCODERS`.
        encoder_weights: `none`, `hub` (published, downloaded once) or the path of a file; see
            `gaussgym_learn.encoders.load_encoder_weights`. Checkpoints hold what was loaded and need it no more.
        encoder_freeze: whether the encoder's backbone keeps its weights.
        aux_kind: `vector`, `height_map` or `voxels`, see `gaussgym_learn.decoders`.
        aux_grid: points of the auxiliary group ahead and across, of kinds that need a grid; the default is the height scan's.
        aux_levels: voxels of a column.
        aux_limit: the auxiliary group's heights are clipped at plus and minus this [its units]; the default is the height scan's.
        photometric: changes of colour with which updates see the camera frames, None for none.
    """

    actor_groups: tuple[str, ...] = TEACHER_GROUPS
    critic_groups: tuple[str, ...] = TEACHER_GROUPS
    actor_hidden: tuple[int, ...] = (128, 128)
    critic_hidden: tuple[int, ...] = (128, 128)
    init_std: float = 0.8
    rnn_hidden: int = 128
    feature_dim: int = 64
    aux_group: str | None = None
    rnn_type: str = "gru"
    rnn_layers: int = 1
    encoder: str = "small_cnn"
    encoder_weights: str = "none"
    encoder_freeze: bool = False
    aux_kind: str = "vector"
    aux_grid: tuple[int, int] = (9, 7)
    aux_levels: int = 24
    aux_limit: float = 2.0
    photometric: PhotometricCfg | None = None


@dataclass(frozen=True)
class PPOCfg:
    """Settings of `gaussgym_learn.ppo.Learner` and of its rollouts.

    Attributes:
        num_envs: environments.
        steps: control steps per environment and update.
        epochs: passes over the rollout.
        mini_batches: minibatches a pass.
        gamma: discount per control step.
        lam: of generalized advantage estimation.
        learning_rate: initial.
        target_kl: KL of a whole update that the learning rate steers to: a number, or a schedule over the run's progress
            (`gaussgym_learn.schedules`); None: the learning rate stays.
        entropy_coef: weight of the entropy bonus.
        clip: of the importance ratio.
        max_grad_norm: gradient clipping.
        aux_lr: learning rate of the auxiliary phase.
        aux_epochs: its passes over the rollout; 0 for no such phase.
        aux_coef: weight of the reconstruction within PPO's own loss (joint gradient), 0 for none.
        value_coef: weight of the value loss.
        final_values: a time-out is worth the state that the episode ended in, whose observations the environment then computes
            too; else the state one step before.
        critic_warmup: updates at first in which only the critic learns, for an actor that can something already.
        average: share that a running average of the actor's parameters keeps at each update (Polyak and Juditsky, 1992); where it
            is not 0, checkpoints hold the average too, and it is what acts when the policy is evaluated, taught from or exported.
    """

    num_envs: int = 256
    steps: int = 20
    epochs: int = 3
    mini_batches: int = 4
    gamma: float = 0.98
    lam: float = 0.95
    learning_rate: float = 1e-3
    target_kl: float | str | None = 0.06
    entropy_coef: float = 0.005
    clip: float = 0.2
    max_grad_norm: float = 1.0
    aux_lr: float = 1e-3
    aux_epochs: int = 1
    aux_coef: float = 0.0
    value_coef: float = 1.0
    final_values: bool = False
    critic_warmup: int = 0
    average: float = 0.0


@dataclass(frozen=True)
class DistillCfg:
    """DAgger (Ross et al., arXiv 1011.0686) from a teacher that sees the terrain to a student that sees pixels, and on by PPO.

    Schedules are text, see `gaussgym_learn.schedules.Schedule`. The loss is `coef` x (Huber loss on the actions + `latent_coef` x
    latent loss) + `aux_weight` x reconstruction + `ppo_coef` x PPO's loss (with the settings of `PPOCfg`). When `ppo_coef` first
    exceeds 0, the student begins to explore by its own distribution; at first only the critic learns (`PPOCfg.critic_warmup`).

    Attributes:
        num_envs: rendered environments.
        steps: control steps per environment and update; also the length of backpropagation through time.
        epochs: passes over each rollout.
        learning_rate: Adam; falls linearly to a tenth, until PPO's rule takes over.
        beta: schedule of the probability that the teacher acts, drawn for each environment and rollout.
        coef: schedule of the weight of imitation.
        ppo_coef: schedule of the weight of PPO.
        huber_delta: of the action loss [action units].
        latent_coef: weight of the squared error between a linear map of the student's latent and the teacher's last hidden layer.
        aux_weight: weight of the scan reconstruction.
        action_noise: standard deviation of the noise on the acting policy's actions [action units].
        explore_std: standard deviation of the student's actions when PPO begins [action units].
        mini_batches: groups of environments an epoch.
        max_grad_norm: gradient clipping.
    """

    num_envs: int = 96
    steps: int = 25
    epochs: int = 2
    learning_rate: float = 1e-3
    beta: str = "1->0@0.15"
    coef: str = "1"
    ppo_coef: str = "0"
    huber_delta: float = 1.0
    latent_coef: float = 0.0
    aux_weight: float = 0.5
    action_noise: float = 0.1
    explore_std: float = 0.25
    mini_batches: int = 2
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class SymmetryCfg:
    """Left-right symmetry, of robots that have it (`gaussgym_sim.mdp.symmetry`).

    Attributes:
        augment: every minibatch also counts as its mirror image.
        mirror_coef: weight of the squared distance between the mirrored robot's mean action and the mirrored mean action: number
            or schedule over the run's progress.
        mirror_share: of a feed-forward actor's minibatch, on which that distance is taken where nothing is augmented.
        swap: share of a feed-forward actor's recorded steps that an update sees as their mirror images in place of themselves,
            drawn anew for each update: half of `augment`'s data, at no cost; number or schedule over the run's progress.
    """

    augment: bool = False
    swap: float | str = 0.0
    mirror_coef: float | str = 0.0
    mirror_share: float = 1.0

    @property
    def used(self) -> bool:
        """Whether anything is mirrored."""
        return self.augment or any(Schedule.parse(x).highest > 0.0 for x in (self.swap, self.mirror_coef))


@dataclass(frozen=True)
class CommandingCfg:
    """A policy whose actions are velocities, see `gaussgym_learn.commanding`.

    Attributes:
        walker: the policy that carries them out: name of a shipped one, or a run folder.
        decision_s: time between decisions [s].
        low: v_x, v_y [m/s], yaw rate [rad/s] of an action of -1.
        high: of an action of 1.
    """

    walker: str = "stairs_teacher"
    decision_s: float = 0.2
    low: tuple[float, float, float] = (-0.3, -0.3, -1.0)
    high: tuple[float, float, float] = (1.0, 0.3, 1.0)


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Attributes:
        name: of the recipe.
        task: of the environment (`velocity` or `goal`).
        network: see `NetworkCfg`.
        ppo: see `PPOCfg`.
        distill: see `DistillCfg`; only read by distillation.
        algorithm: registered name, see `gaussgym_learn.ppo_trainer.ALGORITHMS`.
        symmetry: see `SymmetryCfg`.
        losses: further loss terms, (registered name, weight), see `gaussgym_learn.losses`.
        mixed_precision: image encoder and critic compute in bfloat16 during updates; the rest and all weights stay float32.
        env: the simulator's environment settings.
        clearance: weight [1/s] and target [m] of the penalty on swing feet that move low.
        flat_steps: control steps of each environment on flat ground before the scenes come in (`gaussgym_learn.warm_up`).
        camera_model: lens, shutter and sensor of the camera, of recipes that see; see `gaussgym_learn.env.make_env`.
        show_robot: whether these see the robot's own body, see there.
        show_others: how many other robots they see at most, see there.
        commanding: for tasks whose commands the policy gives; None: its actions are those of joints.
    """

    name: str
    task: str = "velocity"
    network: NetworkCfg = field(default_factory=NetworkCfg)
    ppo: PPOCfg = field(default_factory=PPOCfg)
    distill: DistillCfg = field(default_factory=DistillCfg)
    algorithm: str = "ppo"
    symmetry: SymmetryCfg = field(default_factory=SymmetryCfg)
    losses: tuple[tuple[str, float], ...] = ()
    mixed_precision: bool = False
    env: EnvCfg = field(default_factory=EnvCfg)
    clearance: tuple[float, float] = (0.0, 0.08)
    flat_steps: int = 0
    camera_model: str = "ideal"
    show_robot: bool = False
    show_others: int = 0
    commanding: CommandingCfg | None = None

    def camera_options(self) -> dict[str, Any]:
        """What `gaussgym_learn.env.make_env` and `gaussgym_learn.evaluate.evaluate` take by these names."""
        names = ("camera_model", "show_robot", "show_others")
        return {name: getattr(self, name) for name in names}

    def env_cfg(self) -> EnvCfg:
        """The environment's settings, with a camera that gives the images which the networks read."""
        network = self.network
        return with_images(self.env, (*network.actor_groups, *network.critic_groups))

    def without_weights(self) -> Recipe:
        """The same, for networks whose weights come from a checkpoint: the encoder's own need not be there any more."""
        return replace(self, network=replace(self.network, encoder_weights="none"))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for the checkpoint's manifest."""
        return asdict(self)


def with_images(env: EnvCfg, groups: Sequence[str]) -> EnvCfg:
    """Environment settings whose camera gives those of some observation groups that are images; as they are where none is."""
    images = tuple(dict.fromkeys(group for group in groups if group in IMAGE_GROUPS))
    return replace(env, camera=replace(env.camera, images=images)) if images else env


def commanding_from_dict(fields: Mapping[str, Any] | None) -> CommandingCfg | None:
    """The commanding settings of a checkpoint's manifest (`recipe.commanding`), None for a policy that walks itself."""
    if fields is None:
        return None
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return CommandingCfg(**values)


def network_from_dict(fields: Mapping[str, Any]) -> NetworkCfg:
    """The network settings of a checkpoint's manifest (`recipe.network`); what an older one lacks has its default.

    Raises:
        InputError: a setting that this version does not have.
    """
    known = {f.name for f in dataclass_fields(NetworkCfg)}
    if unknown := sorted(fields.keys() - known):
        raise InputError(
            f"the checkpoint's network has settings that this version does not: {', '.join(unknown)}; "
            "use the version that trained it"
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    if values.get("photometric") is not None:
        values["photometric"] = PhotometricCfg(**values["photometric"])
    return NetworkCfg(**values)


@RECIPES.register("velocity")
def velocity() -> Recipe:
    """A walker from nothing: a trot on flat ground in about a minute, then stairs of rising height, in one run of ten.

    What acts is the average over the last twenty updates or so: single updates walk better and worse by turns. Small steps near
    the end are what keeps it on its feet on stairs; the error's penalty there is what keeps it from standing still on a step;
    gaits that differ left from right fall to one side there, hence the mirror loss; and starts are rare in long episodes, while
    most falls that are left are robots put down at rest with feet over the next step, hence short ones there.
    `experiments/walking` has what else was tried.
    """
    base = teacher_flat()
    rewards = base.env.rewards
    # What the error takes, being alive gives back: totals are not clipped at zero where a robot does badly but stands.
    rewards = replace(rewards, rough=(*rewards.rough, ("lin_vel_error", -1.5), ("alive", 0.7)))
    return replace(
        base,
        name="velocity",
        ppo=replace(base.ppo, average=0.95, steps=10, mini_batches=2, target_kl="0.06->0.01@0.4..1"),
        env=replace(
            base.env, rewards=rewards, rough_episode_s=(2.0, 6.0), level_up_m=2.0, randomize=RandomizeCfg()
        ),
        symmetry=SymmetryCfg(mirror_coef="0, 1@0.6", mirror_share=0.5),
        flat_steps=4000,
    )


@RECIPES.register("teacher_flat")
def teacher_flat() -> Recipe:
    """A privileged teacher that trots on the flat after one to two minutes on two cores."""
    return Recipe("teacher_flat", env=EnvCfg(rewards=RewardCfg(tracking_sigma=0.25)), clearance=(0.3, 0.06))


@RECIPES.register("teacher_rough")
def teacher_rough() -> Recipe:
    """Continuation of `teacher_flat` on uneven ground: slower learning rate, longer horizon, little exploration."""
    base = teacher_flat()
    return replace(
        base,
        name="teacher_rough",
        ppo=replace(base.ppo, gamma=0.985, learning_rate=5e-4),
        network=replace(base.network, init_std=0.45),
        clearance=(0.3, 0.08),
    )


@RECIPES.register("teacher_stairs")
def teacher_stairs() -> Recipe:
    """The long run: a wider network on `courses.stairs_course`, from nothing, level by level up to 18 cm steps."""
    base = teacher_rough()
    wide = (256, 128, 128)
    return replace(
        base,
        name="teacher_stairs",
        network=replace(base.network, actor_hidden=wide, critic_hidden=wide, init_std=0.8),
        ppo=replace(base.ppo, steps=24, learning_rate=1e-3),
        env=replace(
            base.env,
            level_up_m=4.0,
            commands=replace(base.env.commands, lin_vel_x_m_s=(0.3, 0.9), ang_vel_rad_s=(-0.8, 0.8)),
            randomize=replace(base.env.randomize, friction=(0.7, 1.2)),
        ),
    )


@RECIPES.register("teacher")
def teacher() -> Recipe:
    """A privileged teacher: reads the height scan; what `distill` learns from. `teacher_stairs` by its short name."""
    return replace(teacher_stairs(), name="teacher")


@RECIPES.register("distill")
def distill() -> Recipe:
    """The student: CNN + GRU on proprioception and pixels, taught by a teacher that walks to goals along the paths."""
    base = teacher_stairs()
    network = NetworkCfg(
        actor_groups=STUDENT_GROUPS, actor_hidden=(256, 128), init_std=0.1, rnn_hidden=192, aux_group="scan"
    )
    commands = replace(base.env.commands, lin_vel_x_m_s=(0.4, 0.9), standing_fraction=0.03)
    return Recipe("distill", network=network, env=replace(base.env, commands=commands))


@RECIPES.register("pixels")
def pixels() -> Recipe:
    """PPO straight from pixels: the student's network, a privileged critic, auxiliary reconstruction of the scan."""
    base = teacher_rough()
    network = NetworkCfg(actor_groups=STUDENT_GROUPS, actor_hidden=(128,), init_std=0.6, aux_group="scan")
    ppo = replace(base.ppo, num_envs=64, steps=25, epochs=3, mini_batches=2, learning_rate=5e-4)
    return replace(base, name="pixels", network=network, ppo=ppo)


@RECIPES.register("corridor_teacher")
def corridor_teacher() -> Recipe:
    """Commands a walker through `corridor`, told where it is and which lane is safe."""
    groups = ("proprio", "base_vel", "way", "safe_side")
    return Recipe(
        "corridor_teacher",
        task="corridor",
        network=NetworkCfg(
            actor_groups=groups,
            critic_groups=groups,
            actor_hidden=(64, 64),
            critic_hidden=(64, 64),
            init_std=0.5,
        ),
        ppo=PPOCfg(
            num_envs=128,
            steps=12,
            epochs=4,
            gamma=0.97,
            learning_rate=2e-3,
            target_kl=0.05,
            entropy_coef=0.002,
        ),
        distill=DistillCfg(num_envs=128, steps=12, epochs=4, aux_weight=0.0, action_noise=0.2),
        symmetry=SymmetryCfg(augment=True),
        env=EnvCfg.for_task("corridor"),
        # Sideways commands make this walker turn; it has no need of them here.
        commanding=CommandingCfg(low=(0.0, 0.0, -0.6), high=(1.0, 0.0, 0.6)),
    )


@RECIPES.register("corridor_blind")
def corridor_blind() -> Recipe:
    """The same without which lane is safe, and otherwise all that there is to know: what colour is worth."""
    base = corridor_teacher()
    groups = ("proprio", "base_vel", "way")
    return replace(base, name="corridor_blind", network=replace(base.network, actor_groups=groups))


@RECIPES.register("corridor_pixels")
def corridor_pixels() -> Recipe:
    """PPO end to end from the camera's colours and proprioception; only the critic is told which lane is safe."""
    base = corridor_teacher()
    network = replace(
        base.network, actor_groups=STUDENT_GROUPS, actor_hidden=(64,), rnn_hidden=64, feature_dim=32
    )
    return replace(
        base, name="corridor_pixels", network=network, ppo=replace(base.ppo, epochs=2, mini_batches=2)
    )


@RECIPES.register("corridor_student")
def corridor_student() -> Recipe:
    """The same network, taught by `corridor_teacher`."""
    base = corridor_pixels()
    return replace(base, name="corridor_student", network=replace(base.network, init_std=0.2))


def get_recipe(name: str) -> Recipe:
    """A recipe by name, one of ours or of another package's entry point.

    Raises:
        InputError: no such recipe (the message lists those that exist), or what a package declares is none.
    """
    recipe = RECIPES.get(name)()
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"recipe {name!r}: found a function that returns {type(recipe).__name__}, expected a Recipe"
        )
    return recipe
