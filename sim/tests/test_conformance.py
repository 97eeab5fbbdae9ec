"""Every backend against analytic truth; the same checks are `gaussgym-sim check`."""

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.engines.mujoco_model import build_model
from gaussgym_sim.engines.mujoco_sim import effective_cpus
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.testing import CONFORMANCE, flat_scene, missing, place, wavy_scene
from gaussgym_sim.vecsim import VecSim, make_sim


@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_conformance(check):
    def make(scenes, num_envs, *, num_threads=None):
        return make_sim("mujoco", "go1", scenes, num_envs, num_threads=num_threads)

    assert not missing(check, make), "mujoco has everything that can be checked"
    for result in check(make):
        assert result.passed, result


def test_bit_identical_to_plain_mj_step():
    """An independent twin: one MjData stepped by mj_step with the PD law written out."""
    scenes = [flat_scene(), wavy_scene()]
    sim = make_sim("mujoco", "go1", scenes, 4)
    rng = np.random.default_rng(3)
    targets = torch.tensor(sim.robot.default_joint_pos) + torch.tensor(
        rng.uniform(-0.4, 0.4, (4, 12)), dtype=torch.float32
    )
    pos = torch.tensor([[0.0, 0.0, 0.4], [1.0, 0.0, 0.4], [0.5, 0.2, 1.2], [2.0, 1.0, 1.1]])
    place(sim, pos_w=pos)
    for _ in range(30):
        sim.step(targets)
    env = 3
    model = build_model(sim.robot, ground_of(scenes[1]))
    data = mujoco.MjData(model)
    data.qpos[:3] = pos[env].numpy()
    data.qpos[3:7] = (1, 0, 0, 0)
    data.qpos[7:] = torch.tensor(sim.robot.default_joint_pos).numpy()
    limit = np.array(sim.robot.torque_limit_nm)
    for _ in range(120):
        torque = 30.0 * (targets[env].numpy().astype(float) - data.qpos[7:]) - 0.7 * data.qvel[6:]
        data.ctrl[:] = np.clip(torque, -limit, limit)
        mujoco.mj_step(model, data)
    np.testing.assert_array_equal(sim.state.root_pos_w[env].numpy(), data.qpos[:3].astype(np.float32))
    np.testing.assert_array_equal(sim.state.joint_vel[env].numpy(), data.qvel[6:].astype(np.float32))


def test_joint_order_and_sign():
    """Each target moves its own joint, and the joint is the model's of that name."""
    sim = make_sim("mujoco", "go1", [flat_scene()], 12)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]).repeat(12, 1))
    sim.step(joints + 0.2 * torch.eye(12), substeps=40)
    moved = sim.state.joint_pos - joints
    assert (moved.argmax(dim=1) == torch.arange(12)).all()
    model = build_model(sim.robot, ground_of(sim.scenes[0]))
    names = [model.joint(int(model.actuator_trnid[u, 0])).name for u in range(model.nu)]
    assert (
        tuple(names)
        == sim.robot.joint_names
        == tuple(f"{leg}_{j}" for leg in ("FR", "FL", "RR", "RL") for j in ("hip", "thigh", "calf"))
    )


def test_torque_limit_and_strength():
    sim = make_sim("mujoco", "go1", [flat_scene()], 2)
    ids, ones = torch.arange(2), torch.ones(2, 12)
    sim.set_params(ids, strength=torch.tensor([[1.0], [0.5]]) * ones)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]).repeat(2, 1))
    sim.step(joints + 0.1, substeps=1)
    assert torch.allclose(sim.state.joint_torque, torch.tensor([[3.0], [1.5]]) * ones, atol=1e-5)
    sim.step(joints + 50.0, substeps=1)
    assert torch.allclose(sim.state.joint_torque[0], torch.tensor([23.7, 23.7, 35.55] * 4))


def test_contacts_tell_the_bodies_apart():
    """Robots on their feet, on their back and on their side."""
    sim = make_sim("mujoco", "go1", [flat_scene()], 2)
    quat = torch.tensor([[1.0, 0, 0, 0], [0.0, 1.0, 0, 0]])
    joints = place(sim, pos_w=torch.tensor([[0.0, 0, 0.3], [0.0, 0, 0.08]]), quat_wxyz=quat)
    for _ in range(25):
        sim.step(joints)
    assert sim.state.foot_contact.tolist() == [[True] * 4, [False] * 4]
    assert sim.state.trunk_contact.tolist() == [False, True]
    on_its_right_side = torch.tensor([[0.7071068, 0.7071068, 0, 0]]).repeat(2, 1)
    place(sim, pos_w=torch.tensor([[0.0, 0, 0.2]] * 2), quat_wxyz=on_its_right_side)
    for _ in range(10):
        sim.step(joints)
    assert sim.state.thigh_contact.tolist() == [[True, False, True, False]] * 2  # FR and RR


def test_state_is_a_view_and_matches_the_protocol():
    sim = make_sim("mujoco", "go1", [flat_scene()], 2)
    assert isinstance(sim, VecSim)
    kept = sim.state.root_pos_w
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]))
    sim.step(joints)
    assert kept is sim.state.root_pos_w
    assert 1.9 < float(kept[1, 2]) < 2.0


def test_envs_are_dealt_to_scenes_in_blocks():
    sim = make_sim("mujoco", "go1", [flat_scene(), wavy_scene(), flat_scene(z_m=1.0)], 8)
    assert sim.scene_of_env.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert sim.terrain.flat.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(backend="bullet"), "unknown physics backend .bullet.; choose one of: .*mujoco"),
        (dict(robot="spot"), "choose one of: .*go1"),
        (dict(scenes=[]), "no scene"),
        (dict(num_envs=0), "at least one environment"),
        (dict(device="cuda"), "runs on the CPU"),
    ],
)
def test_bad_arguments(arguments, message):
    given = dict(backend="mujoco", robot="go1", scenes=[flat_scene()], num_envs=1, device="cpu") | arguments
    device = given.pop("device")
    with pytest.raises(InputError, match=message):
        make_sim(*given.values(), device=device)


def test_effective_cpus():
    assert effective_cpus() >= 1
