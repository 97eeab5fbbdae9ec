"""Conformance: what every physics backend does, against analytic truth. The same checks are `gaussgym-sim check`."""

from __future__ import annotations

import math

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
    random_walk,
    stand,
    straight_path,
    wavy_scene,
)
from gaussgym_sim.testing_contract import CONTRACT_CHECKS, Check, needs
from gaussgym_sim.vecsim import SUBSTEP_S

__all__ = [
    "CONFORMANCE", "CheckResult", "MakeSim", "flat_scene", "heights_scene", "missing", "place", "random_walk", "stand",
    "straight_path", "wavy_scene",
]  # fmt: skip


def check_free_fall(make: MakeSim) -> list[CheckResult]:
    """Semi-implicit Euler falls z0 - g dt^2 n (n + 1) / 2 in n substeps."""
    sim = make([flat_scene()], 2)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]] * 2))
    n = 80
    sim.step(joints, substeps=n)
    fall = GRAVITY_M_S2 * SUBSTEP_S**2 * n * (n + 1) / 2
    return [
        CheckResult("free fall: distance", 5.0 - float(sim.state.root_pos_w[0, 2]), fall, 1e-4, "m"),
        CheckResult(
            "free fall: speed",
            -float(sim.state.root_lin_vel_w[1, 2]),
            GRAVITY_M_S2 * SUBSTEP_S * n,
            1e-4,
            "m/s",
        ),
    ]


def check_standing(make: MakeSim) -> list[CheckResult]:
    """PD holds the default pose: feet carry the weight, the trunk is clear, torques are the PD law's."""
    sim = make([flat_scene()], 1)
    stand(sim, control_steps=250)
    s, robot = sim.state, sim.robot
    error = torch.tensor(robot.default_joint_pos) - s.joint_pos
    law = (torch.tensor(robot.kp) * error - torch.tensor(robot.kd) * s.joint_vel)[0]
    weight = sim.total_mass_kg * GRAVITY_M_S2
    return [
        CheckResult(
            "standing: force on the feet", float(s.foot_force_w[0, :, 2].sum()), weight, 0.02 * weight, "N"
        ),
        CheckResult("standing: feet on the ground", float(s.foot_contact.sum()), 4.0, 0.0, "feet"),
        CheckResult("standing: trunk contacts", float(s.trunk_contact.sum()), 0.0, 0.0, ""),
        CheckResult(
            "standing: torque minus PD law", float((s.joint_torque[0] - law).abs().max()), 0.0, 0.05, "Nm"
        ),
        CheckResult("standing: speed", float(s.root_lin_vel_w.norm()), 0.0, 0.01, "m/s"),
    ]


def check_friction(make: MakeSim) -> list[CheckResult]:
    """A stiff robot sliding on its feet stops after v^2 / (2 mu g)."""
    friction, speed = torch.tensor([0.1, 0.2]), 1.5
    sim = make([flat_scene()], 2)
    ids = torch.arange(2)
    ones = torch.ones(2, sim.robot.num_joints)
    sim.set_params(ids, friction=friction, kp=150 * ones, kd=3 * ones)
    stand(sim)
    sim.kick(ids, torch.tensor([[speed, 0.0, 0.0]] * 2))
    joints = torch.tensor(sim.robot.default_joint_pos).repeat(2, 1)
    # A kick moves the base and with it all bodies, but bends the legs at once: measure when they have swung back.
    sim.step(joints, substeps=40)
    begin = sim.state.root_pos_w.clone()
    v = sim.state.root_lin_vel_w[:, 0].clone()
    for _ in range(120):
        sim.step(joints)
    slid = sim.state.root_pos_w[:, 0] - begin[:, 0]
    expected = v**2 / (2 * friction * GRAVITY_M_S2)
    return [
        CheckResult(
            f"slide with mu {float(friction[i]):.1f}",
            float(slid[i]),
            float(expected[i]),
            0.1 * float(expected[i]),
            "m",
        )
        for i in range(2)
    ]


def check_payload(make: MakeSim) -> list[CheckResult]:
    """2 kg more on the trunk add 2 g to the force on the feet."""
    sim = make([flat_scene()], 2)
    robot, ones = sim.robot, torch.ones(2, sim.robot.num_joints)
    sim.set_params(torch.arange(2), kp=100 * ones, kd=2 * ones)  # soft gains would let the calves touch
    sim.set_params(
        torch.tensor([1]),
        trunk_mass_kg=torch.tensor([robot.trunk_mass_kg + 2.0]),
        trunk_com_b=torch.tensor([robot.trunk_com_b]),
    )
    stand(sim)
    force = sim.state.foot_force_w[..., 2].sum(dim=1)
    return [CheckResult("payload: added force", float(force[1] - force[0]), 2 * GRAVITY_M_S2, 0.2, "N")]


def check_kick(make: MakeSim) -> list[CheckResult]:
    """A kick adds exactly its velocity to its env alone."""
    sim = make([flat_scene(), wavy_scene()], 4)
    pos = torch.tensor([[0.0, 0.0, 3.0]]).repeat(4, 1)
    place(sim, pos_w=pos, lin_vel_w=torch.tensor([[0.1, 0.2, 0.3]]).repeat(4, 1))
    sim.kick(torch.tensor([1, 3]), torch.tensor([[0.5, -0.25, 0.0], [-1.0, 0.0, 0.125]]))
    expected = torch.tensor([[0.1, 0.2, 0.3], [0.6, -0.05, 0.3], [0.1, 0.2, 0.3], [-0.9, 0.2, 0.425]])
    return [CheckResult("kick", float((sim.state.root_lin_vel_w - expected).abs().max()), 0.0, 1e-6, "m/s")]


def check_terrain(make: MakeSim) -> list[CheckResult]:
    """Feet rest on the heightfield's surface, on ground whose axes, offset and scale cannot be mixed up unnoticed."""
    sim = make([wavy_scene()], 6)
    field = sim.scenes[0].heightfield
    xy = np.array([[-4.0, -1.0], [-4.0, 2.0], [4.0, -1.0], [4.0, 2.0], [0.0, 0.5], [1.0, 1.5]])
    pos = torch.tensor(np.column_stack([xy, field.sample(xy) + 0.35]), dtype=torch.float32)
    joints = place(sim, pos_w=pos)
    for _ in range(60):
        sim.step(joints)
    feet = sim.state.foot_pos_w[sim.state.foot_contact].numpy()
    clearance = feet[:, 2] - field.sample(feet[:, :2]) - sim.robot.foot_radius_m
    return [
        CheckResult("terrain: share of feet in contact", len(feet) / 24, 1.0, 0.1, ""),
        CheckResult("terrain: foot over ground", float(np.abs(clearance).max()), 0.0, 0.006, "m"),
    ]


def check_scan(make: MakeSim) -> list[CheckResult]:
    """The height lookup equals `Heightfield.sample`, inside and beyond the border."""
    scenes = [wavy_scene(), flat_scene(z_m=-0.5)]
    sim = make(scenes, 4)
    rng = np.random.default_rng(0)
    xy = rng.uniform(-9, 9, (4, 50, 2)).astype(np.float32)
    got = sim.terrain.sample(torch.from_numpy(xy), sim.scene_of_env).numpy()
    want = np.stack([scenes[int(s)].heightfield.sample(p) for s, p in zip(sim.scene_of_env, xy, strict=True)])
    return [CheckResult("height lookup", float(np.abs(got - want).max()), 0.0, 2e-5, "m")]


def check_frames(make: MakeSim) -> list[CheckResult]:
    """A body-frame angular velocity turns the base about its own axis, from an orientation without symmetry."""
    sim = make([flat_scene()], 1)
    quat = torch.nn.functional.normalize(torch.tensor([[0.7, 0.2, -0.5, 0.35]]), dim=1)
    omega = torch.tensor([[0.0, 0.0, 3.0]])
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]), quat_wxyz=quat, ang_vel_b=omega)
    joints = torch.tensor(sim.robot.default_joint_pos).repeat(1, 1)
    sim.step(joints, substeps=1)
    # The trunk's first substep: q (x) exp(omega dt); later ones feel the legs.
    half = 0.5 * SUBSTEP_S * sim.state.root_ang_vel_b[0].double()
    angle = half.norm()
    dq = torch.cat((torch.cos(angle)[None], half / angle * torch.sin(angle)))
    want = _multiply(quat[0].double(), dq)
    got = sim.state.root_quat_wxyz[0].double()
    return [
        CheckResult(
            "frames: quaternion after a body-frame turn", float((got - want).abs().max()), 0.0, 1e-6, ""
        )
    ]


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    return torch.stack((
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    ))  # fmt: skip


@needs("deterministic")
def check_determinism(make: MakeSim) -> list[CheckResult]:
    """The same inputs give the same bits at any number of threads."""
    scenes = [wavy_scene(), flat_scene()]
    one = random_walk(make(scenes, 16, num_threads=1))
    other = [random_walk(make(scenes, 16, num_threads=n)) for n in (1, 2, 3)]
    worst = max(float((one - o).abs().max()) for o in other)
    return [CheckResult("determinism: 1 thread against 1, 2, 3", worst, 0.0, 0.0, "")]


@needs("deterministic")
def check_reset_isolation(make: MakeSim) -> list[CheckResult]:
    """Resetting one env leaves the others' trajectories alone, to the bit."""
    scenes = [wavy_scene(), flat_scene()]

    def run(*, reset: bool) -> Tensor:
        sim = make(scenes, 6)
        stand(sim, control_steps=20)
        if reset:
            place(sim, pos_w=torch.tensor([[1.0, 0.0, 3.0], [0.0, 0.0, 3.0]]), env_ids=torch.tensor([1, 4]))
        joints = torch.tensor(sim.robot.default_joint_pos).repeat(6, 1)
        for _ in range(20):
            sim.step(joints + 0.1)
        return sim.state.root_pos_w.clone()

    gap = (run(reset=True) - run(reset=False)).abs().amax(dim=1)
    return [
        CheckResult("reset isolation: others", float(gap[[0, 2, 3, 5]].max()), 0.0, 0.0, "m"),
        CheckResult("reset isolation: reset env moved", float(gap[[1, 4]].min() > 0.1), 1.0, 0.0, ""),
    ]


@needs("park")
def check_parking(make: MakeSim) -> list[CheckResult]:
    """Parked envs stay as they are; the others move as if nothing had happened."""
    sim, twin = (make([flat_scene(), wavy_scene()], 4) for _ in range(2))
    target = torch.tensor(sim.robot.default_joint_pos).repeat(4, 1)
    for each in (sim, twin):
        place(each, pos_w=torch.tensor([[0.0, 0.0, 0.5], [1.0, 0.0, 0.5], [0.5, 0.2, 1.2], [2.0, 1.0, 1.1]]))
        each.step(target)
    before = sim.state.root_pos_w.clone()
    parked = torch.tensor([1, 2])
    sim.park(parked)
    for each in (sim, twin):
        for _ in range(5):
            each.step(target)
    moved = (sim.state.root_pos_w - before).norm(dim=1)
    others = torch.tensor([0, 3])
    unlike = (sim.state.root_pos_w - twin.state.root_pos_w)[others].abs().max()
    return [
        CheckResult("parking: parked envs", float(moved[parked].max()), 0.0, 0.0, "m"),
        CheckResult("parking: others", float(unlike), 0.0, 0.0, "m"),
        CheckResult("parking: others moved", float(moved[others].min() > 0.01), 1.0, 0.0, ""),
    ]


def check_invalid(make: MakeSim) -> list[CheckResult]:
    """A state that is not finite is reported in its env alone, read as finite numbers, and mended by a reset."""
    sim = make([flat_scene()], 3)
    stand(sim, control_steps=5)
    pos = torch.tensor([[0.0, 0.0, math.nan]])
    joints = place(sim, pos_w=pos, env_ids=torch.tensor([1]))
    sim.step(joints)
    flags = sim.state.invalid.float().tolist()
    finite = bool(torch.isfinite(sim.state.root_pos_w).all())
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.3]]), env_ids=torch.tensor([1]))
    sim.step(joints)
    return [
        CheckResult("invalid: reported", float(flags == [0.0, 1.0, 0.0]), 1.0, 0.0, ""),
        CheckResult("invalid: buffers finite", float(finite), 1.0, 0.0, ""),
        CheckResult("invalid: after reset", float(sim.state.invalid.sum()), 0.0, 0.0, ""),
        CheckResult("invalid: count", float(sim.invalid_count), 1.0, 0.0, ""),
    ]


CONFORMANCE: tuple[Check, ...] = (
    check_free_fall,
    check_standing,
    check_friction,
    check_payload,
    check_kick,
    check_terrain,
    check_scan,
    check_frames,
    check_determinism,
    check_reset_isolation,
    check_parking,
    check_invalid,
    *CONTRACT_CHECKS,
)
"""Every backend passes all of these."""


def missing(check: Check, make: MakeSim) -> frozenset[str]:
    """Capabilities that a check needs and that a backend does not claim to have; it need not pass then."""
    wanted: frozenset[str] = getattr(check, "needs", frozenset())
    return wanted - make([flat_scene()], 1).capabilities if wanted else frozenset()
