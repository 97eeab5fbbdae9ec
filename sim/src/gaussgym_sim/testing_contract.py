"""Conformance, second part: pushes, parameters of single envs, steps, rays, scenes that change, states that are resumed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gaussgym_sim.grounds import (
    GRAVITY_M_S2,
    CheckResult,
    MakeSim,
    flat_scene,
    heights_scene,
    place,
    stand,
    wavy_scene,
)
from gaussgym_sim.vecsim import SUBSTEP_S, VecSim

Check = Callable[[MakeSim], list[CheckResult]]


def needs(*capabilities: str) -> Callable[[Check], Check]:
    """Mark a check that only backends with these capabilities have to pass."""

    def mark(check: Check) -> Check:
        check.needs = frozenset(capabilities)  # type: ignore[attr-defined]
        return check

    return mark


def _airborne(sim: VecSim, *, height_m: float = 5.0) -> Tensor:
    """All envs in the air, at rest, stiff; returns the targets [E, J] that hold the pose."""
    e, j = sim.num_envs, sim.robot.num_joints
    sim.set_params(torch.arange(e), kp=torch.full((e, j), 150.0), kd=torch.full((e, j), 3.0))
    return place(sim, pos_w=torch.tensor([[0.0, 0.0, height_m]]).repeat(e, 1))


@needs("trunk_mass_kg")
def check_push(make: MakeSim) -> list[CheckResult]:
    """A force on the base accelerates the whole robot by F / m - g, whatever its mass; a reset ends it."""
    sim = make([flat_scene()], 3)
    robot, steps = sim.robot, 20
    joints = _airborne(sim)
    sim.set_params(torch.tensor([1]), trunk_mass_kg=torch.tensor([robot.trunk_mass_kg + 5.0]))
    force = 1.5 * sim.total_mass_kg * GRAVITY_M_S2
    sim.push(torch.tensor([0, 1]), torch.tensor([[0.0, 0.0, force]] * 2))
    sim.step(joints, substeps=steps)
    seconds = steps * SUBSTEP_S
    speed = sim.state.root_lin_vel_w[:, 2].clone()
    results = []
    for env, mass in ((0, sim.total_mass_kg), (1, sim.total_mass_kg + 5.0)):
        want = (force / mass - GRAVITY_M_S2) * seconds
        # The force does not act on the robot's own centre of mass, so it turns a little too.
        results.append(
            CheckResult(
                f"push: speed of {mass:.1f} kg", float(speed[env]), want, 0.05 * force / mass * seconds, "m/s"
            )
        )
    results.append(
        CheckResult("push: others", float(speed[2]), -GRAVITY_M_S2 * seconds, 1e-3, "m/s"),
    )
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]), env_ids=torch.tensor([0]))
    sim.step(joints, substeps=steps)
    fallen = float(sim.state.root_lin_vel_w[0, 2])
    return [*results, CheckResult("push: over after a reset", fallen, -GRAVITY_M_S2 * seconds, 1e-3, "m/s")]


def check_torque_push(make: MakeSim) -> list[CheckResult]:
    """Torque about the world's z axis turns the base that way, and pushes hold until they are changed."""
    sim = make([flat_scene()], 2)
    joints = _airborne(sim)
    ids, zero = torch.arange(2), torch.zeros(2, 3)
    sim.push(ids, zero, torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0]]))
    sim.step(joints, substeps=10)
    first = sim.state.root_ang_vel_b[:, 2].clone()
    sim.push(ids, zero)
    sim.step(joints, substeps=10)
    second = sim.state.root_ang_vel_b[:, 2]
    return [
        CheckResult("torque push: sense", float((first[0] > 0.1) & (first[1] < -0.1)), 1.0, 0.0, ""),
        CheckResult(
            "torque push: over", float((second - first).abs().max() < 0.35 * first.abs().max()), 1.0, 0.0, ""
        ),
    ]


def check_turning_kick(make: MakeSim) -> list[CheckResult]:
    """A turning kick adds to the base's own angular velocity, of its env alone."""
    sim = make([flat_scene()], 2)
    quat = torch.nn.functional.normalize(torch.tensor([[0.7, 0.2, -0.5, 0.35]]), dim=1).repeat(2, 1)
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]).repeat(2, 1), quat_wxyz=quat)
    sim.kick(torch.tensor([1]), torch.zeros(1, 3), torch.tensor([[0.5, -1.0, 0.25]]))
    want = torch.tensor([[0.0, 0.0, 0.0], [0.5, -1.0, 0.25]])
    return [
        CheckResult("turning kick", float((sim.state.root_ang_vel_b - want).abs().max()), 0.0, 1e-5, "rad/s")
    ]


@needs("gravity_w")
def check_gravity(make: MakeSim) -> list[CheckResult]:
    """Each env falls by its own gravity, also sideways."""
    sim = make([flat_scene()], 3)
    joints = _airborne(sim)
    gravity = torch.tensor([[0.0, 0.0, -GRAVITY_M_S2], [0.0, 0.0, -1.62], [1.0, -2.0, -3.0]])
    sim.set_params(torch.arange(3), gravity_w=gravity)
    sim.step(joints, substeps=40)
    gap = (sim.state.root_lin_vel_w - gravity * 40 * SUBSTEP_S).abs().max()
    return [CheckResult("gravity: speed", float(gap), 0.0, 2e-3, "m/s")]


@needs("strength", "offset", "delay_s")
def check_actuator_params(make: MakeSim) -> list[CheckResult]:
    """Gains, strength and offset act at once; a delayed target acts so many substeps later, to the substep."""
    sim = make([flat_scene()], 4)
    robot, ids = sim.robot, torch.arange(4)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]).repeat(4, 1))
    ones = torch.ones(4, robot.num_joints)
    sim.set_params(
        ids, kp=20.0 * ones, kd=0.0 * ones, strength=torch.tensor([1.0, 0.5, 1.0, 1.0])[:, None] * ones,
        offset=torch.tensor([0.0, 0.0, 0.05, 0.0])[:, None] * ones,
        delay_s=torch.tensor([0.0, 0.0, 0.0, 3 * SUBSTEP_S]),
    )  # fmt: skip
    sim.step(joints + 0.1, substeps=1)
    first = sim.state.joint_torque.mean(dim=1).clone()
    onset = []
    for _ in range(4):
        onset.append(bool(sim.state.joint_torque[3].abs().max() > 1.0))
        sim.step(joints + 0.1, substeps=1)
    return [
        CheckResult("actuators: torque", float(first[0]), 2.0, 1e-3, "Nm"),
        CheckResult("actuators: half strength", float(first[1]), 1.0, 1e-3, "Nm"),
        CheckResult("actuators: offset", float(first[2]), 3.0, 1e-3, "Nm"),
        CheckResult("actuators: delay", float(onset.index(True)), 3.0, 0.0, "substeps"),
        CheckResult("actuators: values kept", float(sim.params["offset"][2, 0]), 0.05, 1e-7, "rad"),
    ]


@needs("friction", "trunk_mass_kg")
def check_params_stay(make: MakeSim) -> list[CheckResult]:
    """Parameters belong to one env and outlive a reset."""
    sim = make([flat_scene()], 2)
    mass = sim.robot.trunk_mass_kg
    sim.set_params(torch.tensor([1]), trunk_mass_kg=torch.tensor([mass + 2.0]))
    everyone = torch.arange(2)
    ones = torch.ones(2, sim.robot.num_joints)
    sim.set_params(everyone, kp=100 * ones, kd=2 * ones)
    stand(sim, control_steps=100)
    stand(sim, control_steps=100)
    force = sim.state.foot_force_w[..., 2].sum(dim=1)
    return [
        CheckResult("parameters: after a reset", float(force[1] - force[0]), 2 * GRAVITY_M_S2, 0.3, "N"),
        CheckResult("parameters: others", float(sim.params["trunk_mass_kg"][0]), mass, 1e-5, "kg"),
    ]


@needs("restitution", "armature")
def check_restitution(make: MakeSim) -> list[CheckResult]:
    """A robot with joints all but locked comes down on its feet, and goes up with half its restitution times the speed."""
    sim = make([flat_scene()], 3)
    ids, ones = torch.arange(3), torch.ones(3, sim.robot.num_joints)
    restitution = torch.tensor([0.0, 0.5, 1.0])
    sim.set_params(ids, kp=0 * ones, kd=0 * ones, armature=1000 * ones, restitution=restitution)
    speed, above = torch.tensor(2.0), 0.05
    height = sim.robot.base_height_m + 0.1
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, height]]).repeat(3, 1))
    touches = height - float(sim.state.foot_pos_w[0, :, 2].min()) + sim.robot.foot_radius_m
    start = torch.tensor([[0.0, 0.0, touches + above]]).repeat(3, 1)
    place(sim, pos_w=start, lin_vel_w=torch.tensor([[0.0, 0.0, -1.0]]).repeat(3, 1) * speed)
    best = torch.zeros(3)
    for _ in range(40):
        sim.step(joints, substeps=1)
        over, up = sim.state.root_pos_w[:, 2] - touches, sim.state.root_lin_vel_w[:, 2]
        energy = up**2 + 2 * GRAVITY_M_S2 * over
        best = torch.where((over > 0) & (up > 0), torch.maximum(best, energy), best)
    share = (best / (speed**2 + 2 * GRAVITY_M_S2 * above)).sqrt()
    return [
        CheckResult(f"speed after an impact, restitution {float(e):.1f}", float(x), 0.5 * float(e), 0.1, "1")
        for e, x in zip(restitution, share, strict=True)
    ]


def check_step_edge(make: MakeSim) -> list[CheckResult]:
    """Front feet stand on a 10 cm step, hind feet before it."""
    scene = heights_scene(lambda x, y: 0.1 * (x > 0.0), cell_m=0.05, name="step")
    sim = make([scene], 1)
    pitch = -math.atan2(0.1, 0.376)
    quat = torch.tensor([[math.cos(pitch / 2), 0.0, math.sin(pitch / 2), 0.0]])
    joints = place(sim, pos_w=torch.tensor([[0.02, 0.3, 0.05 + 0.32]]), quat_wxyz=quat)
    ones = torch.ones(1, sim.robot.num_joints)
    sim.set_params(torch.tensor([0]), kp=100 * ones, kd=2 * ones)
    for _ in range(100):
        sim.step(joints)
    s = sim.state
    height = s.foot_pos_w[0, :, 2] - sim.robot.foot_radius_m
    ground = sim.terrain.sample(s.foot_pos_w[:, :, :2], sim.scene_of_env)[0]
    return [
        CheckResult("step: feet on the upper level", float((ground > 0.09).sum()), 2.0, 0.0, "feet"),
        CheckResult("step: feet over the ground", float((height - ground).abs().max()), 0.0, 0.008, "m"),
        CheckResult("step: feet in contact", float(s.foot_contact.sum()), 4.0, 0.0, "feet"),
    ]


def check_scene_separation(make: MakeSim) -> list[CheckResult]:
    """Robots at one place do not touch each other, and each feels the ground of its own scene alone."""
    scenes = [flat_scene(), flat_scene(z_m=-1.0), wavy_scene()]
    crowd = make(scenes, 6)
    stand(crowd)
    alone = [make([scene], 1) for scene in scenes]
    worst = 0.0
    for sim, envs in zip(alone, ((0, 1), (2, 3), (4, 5)), strict=True):
        stand(sim)
        for env in envs:
            worst = max(worst, float((crowd.state.root_pos_w[env] - sim.state.root_pos_w[0]).abs().max()))
    return [CheckResult("scenes: a crowd against one alone", worst, 0.0, 1e-4, "m")]


def check_raycast(make: MakeSim) -> list[CheckResult]:
    """Rays meet a tilted plane where they should, straight down meets the heightfield, and robots are not hit."""
    slope = heights_scene(lambda x, y: 0.3 * x - 0.2 * y, name="tilted")
    sim = make([slope, flat_scene(z_m=0.5)], 2)
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.8]]))
    rng = np.random.default_rng(0)
    origin = torch.tensor(rng.uniform((-1, -1, 1.5), (1, 1, 2), (2, 64, 3)), dtype=torch.float32)
    direction = torch.tensor(rng.normal(size=(2, 64, 3)) * (0.4, 0.4, 0.1) - (0, 0, 1), dtype=torch.float32)
    direction = torch.nn.functional.normalize(direction, dim=2)
    got = sim.raycast(origin, direction)
    normal = torch.tensor([[-0.3, 0.2, 1.0], [0.0, 0.0, 1.0]])[:, None]
    level = torch.tensor([[0.0], [0.5]])
    want = (level - (origin * normal).sum(2)) / (direction * normal).sum(2)
    up = sim.raycast(origin, -direction)
    return [
        CheckResult("rays: distance", float((got - want).abs().max()), 0.0, 1e-4, "m"),
        CheckResult("rays: none upwards", float(torch.isinf(up).float().mean()), 1.0, 0.0, ""),
    ]


@needs("set_scene")
def check_set_scene(make: MakeSim) -> list[CheckResult]:
    """Envs change their ground and start with nominal parameters; those that stay go on to the bit."""
    scenes = [flat_scene(), wavy_scene()]
    sim, twin = make(scenes, 4), make(scenes, 4)
    for each in (sim, twin):
        each.set_params(torch.arange(4), friction=torch.tensor([0.3, 0.4, 0.5, 0.6]))
        stand(each, control_steps=10)
    upper = flat_scene(z_m=2.0)
    sim.set_scene(torch.tensor([0, 1]), upper)  # a new scene
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 2.3]]).repeat(2, 1), env_ids=torch.tensor([0, 1]))
    sim.set_scene(torch.tensor([2]), upper)  # a scene that is there
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 2.3]]), env_ids=torch.tensor([2]))
    for each in (sim, twin):
        for _ in range(50):
            each.step(joints)
    height = sim.state.foot_pos_w[:3, :, 2] - sim.robot.foot_radius_m
    stayed = (sim.state.root_pos_w[3] - twin.state.root_pos_w[3]).abs().max()
    return [
        CheckResult("set_scene: feet on the new ground", float((height - 2.0).abs().max()), 0.0, 0.006, "m"),
        CheckResult(
            "set_scene: who stands where", float(sim.scene_of_env.tolist() == [0, 0, 0, 1]), 1.0, 0.0, ""
        ),
        CheckResult(
            "set_scene: friction of the moved", float(sim.params["friction"][:3].std()), 0.0, 0.0, ""
        ),
        CheckResult("set_scene: others", float(stayed), 0.0, 0.0, "m"),
    ]


@needs("state_dict", "deterministic", "friction", "trunk_mass_kg", "delay_s")
def check_resume(make: MakeSim) -> list[CheckResult]:
    """A sim that loads another's state goes on as the other does, to the bit."""
    scenes = [wavy_scene(), flat_scene()]
    sim, other = make(scenes, 6), make(scenes, 6)
    ids, generator = torch.arange(6), torch.Generator().manual_seed(5)
    sim.set_params(
        ids, friction=torch.linspace(0.3, 1.2, 6), trunk_mass_kg=sim.robot.trunk_mass_kg + torch.linspace(-1, 2, 6),
        delay_s=torch.linspace(0, 0.05, 6),
    )  # fmt: skip
    if "restitution" in sim.capabilities:
        sim.set_params(ids, restitution=torch.linspace(0, 1, 6))
    stand(sim, control_steps=5)
    stand(other, control_steps=3)
    noise = 0.3 * torch.randn(40, 6, sim.robot.num_joints, generator=generator)
    joints = torch.tensor(sim.robot.default_joint_pos)
    for k in range(20):
        sim.step(joints + noise[k])
    other.load_state_dict(sim.state_dict())
    at_once = float((other.state.foot_force_w - sim.state.foot_force_w).abs().max())
    worst = 0.0
    for k in range(20, 40):
        for each in (sim, other):
            each.step(joints + noise[k])
        gaps = [
            (getattr(sim.state, name).float() - getattr(other.state, name).float()).abs().max()
            for name in vars(sim.state)
        ]
        worst = max(worst, float(torch.stack(gaps).max()))
    return [
        CheckResult("resume: state at once", at_once, 0.0, 0.0, "N"),
        CheckResult("resume: trajectory", worst, 0.0, 0.0, ""),
    ]


CONTRACT_CHECKS: tuple[Check, ...] = (
    check_push,
    check_torque_push,
    check_turning_kick,
    check_gravity,
    check_actuator_params,
    check_params_stay,
    check_restitution,
    check_step_edge,
    check_scene_separation,
    check_raycast,
    check_set_scene,
    check_resume,
)
"""Run by `gaussgym_sim.testing.CONFORMANCE`."""
