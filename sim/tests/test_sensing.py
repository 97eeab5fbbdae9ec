from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.frames import (
    matrix_from_quat,
    matrix_from_rotation_vector,
    multiply_quat,
    quat_from_rotation_vector,
)
from gaussgym_sim.randomize import RandomizeCfg, Uniform
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.observations import ObservationCfg, Observations, make_sensing, proprio_terms
from gaussgym_sim.sensors.sensing import SensingCfg
from gaussgym_sim.testing import flat_scene
from gaussgym_sim.vecsim import make_sim

CPU = torch.device("cpu")
ROBOT = get_robot("go1")
GYRO, GRAVITY, COMMAND, JOINT, SPEED, ACTION = (
    slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 21), slice(21, 33), slice(33, 45),
)  # fmt: skip


def uniform(seed=0):
    return Uniform(torch.Generator().manual_seed(seed), CPU)


def sensing(num_envs=300, **settings):
    made = make_sensing(
        ROBOT, ObservationCfg(), SensingCfg(**settings), num_envs, control_s=0.02, uniform=uniform()
    )
    made.restart(torch.arange(num_envs))
    return made


def truth(num_envs=300, seed=0):
    return torch.randn(num_envs, 45, generator=torch.Generator().manual_seed(seed))


def test_perfect_sensors_are_no_sensors():
    assert make_sensing(ROBOT, ObservationCfg(), SensingCfg(), 3, control_s=0.02, uniform=uniform()) is None


def test_biases_are_constant_over_an_episode_and_in_their_own_columns():
    s = sensing(encoder_bias_rad=0.05, gyro_bias_rad_s=0.2)
    first, second = s.measure(truth(seed=1)) - truth(seed=1), s.measure(truth(seed=2)) - truth(seed=2)
    np.testing.assert_allclose(first, second, atol=1e-6)
    for columns, most in ((GYRO, 0.2), (JOINT, 0.05)):
        assert 0.98 * most < first[:, columns].abs().max() <= most + 1e-6
        assert first[:, columns].std(dim=0).min() > 0.5 * most / 3**0.5
    for columns in (GRAVITY, COMMAND, SPEED, ACTION):
        assert (first[:, columns] == 0).all()
    before = first[:2].clone()
    s.restart(torch.tensor([1]))
    after = (s.measure(truth(seed=1)) - truth(seed=1))[:2]
    np.testing.assert_allclose(after[0], before[0])
    assert (after[1, JOINT] != before[1, JOINT]).all()


def test_a_tilted_imu_turns_spin_and_gravity_together():
    s = sensing(num_envs=4, imu_tilt_rad=0.1)
    turn = matrix_from_quat(s.imu_quat_wxyz)
    angle = torch.arccos((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2)
    assert 0.03 < angle.max() <= 0.1 * 3**0.5
    value = truth(4)
    got = s.measure(value.clone())
    for columns in (GYRO, GRAVITY):
        np.testing.assert_allclose(
            got[:, columns], torch.einsum("eij,ej->ei", turn, value[:, columns]), atol=1e-6
        )
    assert torch.equal(got[:, 6:], value[:, 6:])


def test_groups_are_late_on_their_own_and_scaled_latencies_are_rounded():
    s = sensing(
        imu_latency_s=(0.02, 0.02), joint_latency_s=(0.04, 0.04), command_latency_s=(0.1, 0.1), action_latency_s=(0.029, 0.029)
    )  # fmt: skip
    values = [torch.full((300, 45), float(step)) for step in range(12)]
    for step, value in enumerate(values):
        if step:
            s.advance()
        got = s.measure(value.clone())
    late = ((GYRO, 1), (GRAVITY, 1), (JOINT, 2), (SPEED, 2), (COMMAND, 5), (ACTION, 1))
    for columns, steps in late:
        assert (got[:, columns] == 11.0 - steps).all()


def test_one_latency_for_all_and_a_new_one_every_three_seconds():
    s = sensing(imu_latency_s=(0.0, 0.0475), action_latency_s=(0.0, 0.0275), same_latency=True)

    def delays():
        return s._delay.clone()

    first = delays()
    assert set(first[:, 0].tolist()) == {0, 1, 2}
    for columns in (GRAVITY, COMMAND, JOINT, SPEED):
        assert (first[:, columns] == first[:, :1]).all()
    assert set(first[:, 33].tolist()) == {0, 1}
    # Rounding keeps the mean: 0.02375 / 0.02 steps.
    assert first[:, 0].float().mean() == pytest.approx(1.1875, abs=0.15)
    for _ in range(149):
        s.advance()
    assert torch.equal(delays(), first)
    s.advance()
    assert not torch.equal(delays(), first)


def test_an_episodes_noise_has_an_amplitude_of_its_own():
    s = sensing(2000, joint_pos_noise_rad=(0.005, 0.02), ang_vel_noise_rad_s=(0.1, 0.35))
    cfg = ObservationCfg()
    obs = Observations(ROBOT, cfg, device=CPU, generator=torch.Generator().manual_seed(1), sensing=s)
    sizes = [t.size for t in proprio_terms(ROBOT)]
    zero = tuple(torch.zeros(2000, n) for n in sizes)
    got = torch.stack([obs.proprio(zero, noisy=True) for _ in range(200)])
    joint = got[..., JOINT].abs().amax(dim=(0, 2))
    assert 0.005 <= joint.min() < 0.006
    assert 0.0195 < joint.max() <= 0.02
    gyro = got[..., GYRO].abs().amax(dim=(0, 2)) / cfg.ang_vel_scale
    assert 0.1 * 0.98 <= gyro.min() < 0.12
    assert 0.34 < gyro.max() <= 0.35
    assert got[..., SPEED].abs().max() <= cfg.joint_vel_noise  # the fixed one, on the scaled value
    assert got[..., SPEED].abs().max() > 0.99 * cfg.joint_vel_noise
    assert (obs.proprio(zero, noisy=False) == 0).all()


def test_a_new_episode_sees_nothing_of_the_one_before():
    s = sensing(2, imu_latency_s=(0.1, 0.1), same_latency=True)
    for step in range(8):
        s.measure(torch.full((2, 45), float(step)))
        s.advance()
    s.restart(torch.tensor([0]))
    got = s.measure(torch.full((2, 45), 50.0))
    assert got[0, 0] == 50.0
    assert got[1, 0] == 3.0


def test_measuring_twice_in_a_step_is_measuring_once():
    s = sensing(5, imu_latency_s=(0.02, 0.06), same_latency=True, encoder_bias_rad=0.1)
    for step in range(6):
        value = truth(5, seed=step)
        first = s.measure(value.clone()).clone()
        assert torch.equal(s.measure(value.clone()), first)
        s.advance()


def test_sensors_go_on_from_a_saved_state():
    settings = {"imu_latency_s": (0.0, 0.1), "encoder_bias_rad": 0.1, "joint_vel_noise_rad_s": (0.0, 1.0)}
    first, other = sensing(6, **settings), sensing(6, **settings)
    for step in range(9):
        first.measure(truth(6, step))
        first.advance()
    other.load_state_dict(first.state_dict())
    value = truth(6, 99)
    assert torch.equal(first.measure(value.clone()), other.measure(value.clone()))
    assert torch.equal(first.noise, other.noise)


def test_the_environments_observations_are_what_the_sensors_say():
    """Late joints: what the policy reads is what was true so many steps before, in steps of the environment."""
    cfg = replace(
        EnvCfg(), randomize=replace(RandomizeCfg.none(), sensing=SensingCfg(joint_latency_s=(0.06, 0.06))),
        noisy_observations=False, random_initial_age=False,
    )  # fmt: skip
    env = Env(make_sim("mujoco", "go1", [flat_scene()], 2), cfg)
    true, seen = [], []
    for step in range(10):
        obs, *_ = env.step(torch.full((2, 12), 0.3 * (step % 3)))
        true.append(env.sim.state.joint_pos - env.default_joint_pos)
        seen.append(obs["proprio"])
        np.testing.assert_allclose(seen[-1][:, 3:6], env.gravity_b, atol=1e-6)
    for step in range(3, 10):
        np.testing.assert_allclose(seen[step][:, JOINT], true[step - 3], atol=1e-6)
    assert cfg.for_evaluation().randomize.sensing == SensingCfg()


def test_products_of_quaternions_are_products_of_matrices():
    a, b = (
        quat_from_rotation_vector(torch.randn(20, 3, generator=torch.Generator().manual_seed(i)))
        for i in (0, 1)
    )
    np.testing.assert_allclose(
        matrix_from_quat(multiply_quat(a, b)), matrix_from_quat(a) @ matrix_from_quat(b), atol=1e-6
    )
    vector = torch.tensor([[0.0, 0.0, 0.5]])
    np.testing.assert_allclose(
        matrix_from_quat(quat_from_rotation_vector(vector)), matrix_from_rotation_vector(vector), atol=1e-7
    )
