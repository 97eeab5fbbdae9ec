"""The torch twin of the actuators, which Isaac Gym's worker runs, against those of the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg
from gaussgym_sim.actuation.actuator_net import ActuatorNet, DenseLayer, LstmLayer
from gaussgym_sim.actuation.actuators import Actuators
from gaussgym_sim.engines.isaacgym_actuators import Actuators as Twin
from gaussgym_sim.engines.isaacgym_sim import describe_robot, nominal_params
from gaussgym_sim.robot import get_robot

ENVS, JOINTS, MAX_DELAY, DT_S = 5, 12, 12, 0.005


def small_net(*, lstm):
    rng = np.random.default_rng(3)

    def weights(*shape):
        return rng.normal(0, 0.4, shape).astype(np.float32)

    if lstm:
        layers = (
            LstmLayer(weights(24, 2), weights(24, 6), weights(24)),
            LstmLayer(weights(24, 6), weights(24, 6), weights(24)),
        )
        return ActuatorNet(
            (0,),
            layers,
            (DenseLayer(weights(5, 6), weights(5)), DenseLayer(weights(1, 5), weights(1))),
            "elu",
        )
    return ActuatorNet(
        (0, 1, 3),
        (),
        (DenseLayer(weights(8, 6), weights(8)), DenseLayer(weights(1, 8), weights(1))),
        "softsign",
    )


def kinds(tmp_path):
    yield ActuatorCfg()
    yield ActuatorCfg("dc", stall_torque_nm=(20.0,) * JOINTS, no_load_speed_rad_s=(15.0,) * JOINTS)
    for name, lstm in (("mlp", False), ("lstm", True)):
        path = tmp_path / f"{name}.npz"
        small_net(lstm=lstm).save(path)
        yield ActuatorCfg("net", net=path)


@pytest.mark.parametrize("kind", ["pd", "dc", "mlp", "lstm"])
def test_torques_equal_those_of_the_cpu_over_delays_and_resets(tmp_path, kind):
    cfg = dict(zip(("pd", "dc", "mlp", "lstm"), kinds(tmp_path), strict=True))[kind]
    robot = replace(get_robot("go1"), actuator=cfg)
    rng = np.random.default_rng(0)
    near = Actuators(robot, ENVS, max_delay=MAX_DELAY)
    params = {
        name: torch.tensor(value, dtype=torch.float32).repeat(ENVS, *([1] * np.ndim(value)))
        for name, value in nominal_params(robot).items()
    }
    file = None if cfg.net is None else np.frombuffer(cfg.net.read_bytes(), np.uint8)
    far = Twin(describe_robot(robot), params, MAX_DELAY, DT_S, file)
    for name, low, high in (("kp", 10, 60), ("kd", 0.1, 2), ("strength", 0.5, 1.5), ("offset", -0.1, 0.1)):
        value = rng.uniform(low, high, (ENVS, JOINTS)).astype(np.float32)
        getattr(near, name)[:] = value
        params[name][:] = torch.from_numpy(value)
    near.delay[:] = (0, 1, 5, 11, 12)
    far.delay[:] = torch.from_numpy(near.delay.astype(np.int64))
    params["joint_damping"][:] = params["joint_friction"][:] = 0.0
    columns = (np.arange(JOINTS),) * 3
    ctrl = np.zeros((ENVS, JOINTS))
    largest = 0.0
    for step in range(12):
        if step in (5, 8):
            ids = np.array([1, 3])
            held = rng.normal(0, 0.3, (2, JOINTS)).astype(np.float32)
            near.reset(ids, held)
            far.reset(torch.from_numpy(ids), torch.from_numpy(held))
        target = rng.normal(0, 0.5, (ENVS, JOINTS)).astype(np.float32)
        near.begin(target, 4)
        for substep in range(4):
            q, qd = rng.normal(0, 0.5, (ENVS, JOINTS)), rng.normal(0, 8, (ENVS, JOINTS))
            near.apply(substep, np.arange(ENVS), q, qd, columns, ctrl)
            effort = far.efforts(torch.from_numpy(target), torch.tensor(q).float(), torch.tensor(qd).float())
            assert torch.equal(effort, far.torque)
            np.testing.assert_allclose(far.torque.numpy(), near.torque, atol=2e-4)
            largest = max(largest, float(np.abs(near.torque).max()))
    assert largest > 1.0


def joint(**values):
    """One joint of inertia 0.02 kg m^2 without a motor, to be pushed by hand."""
    shape = (1, 1)
    params = {n: torch.zeros(shape) for n in ("kp", "kd", "offset", "joint_damping", "joint_friction")}
    params |= {"strength": torch.ones(shape), "armature": torch.full(shape, 0.01)}
    params |= {name: torch.full(shape, value) for name, value in values.items()}
    robot = {"torque_limit_nm": [100.0], "default_joint_pos": [0.0], "actuator": {"kind": "pd"}}
    return Twin(robot, params, 0, DT_S)


def swing(actuators, torque_nm, *, steps, speed=0.0, inertia=0.02):
    """Position and speed after semi-implicit steps under a torque from outside."""
    q, qd = torch.zeros(1, 1), torch.full((1, 1), speed)
    for _ in range(steps):
        qd = qd + (torque_nm + actuators.efforts(torch.zeros(1, 1), q, qd)) / inertia * DT_S
        q = q + qd * DT_S
    return float(q), float(qd)


def test_dry_friction_holds_below_its_torque_and_gives_way_above():
    held, rest = swing(joint(joint_friction=1.0), 0.9, steps=200)
    assert (
        0.9 / 200 <= held < 0.02
    )  # stretched by 0.9 Nm over 200 Nm/rad, and dragged a little by the sudden load
    assert abs(rest) < 1e-5
    assert swing(joint(joint_friction=1.0), 0.9, steps=2000)[0] == pytest.approx(
        held, abs=1e-6
    )  # it does not creep
    moved, speed = swing(joint(joint_friction=1.0), 1.5, steps=200)
    assert speed == pytest.approx(0.5 / 0.02 * 200 * DT_S, rel=0.05)
    assert moved > 5.0


def test_dry_friction_stops_a_joint_with_constant_deceleration():
    _, speed = swing(joint(joint_friction=1.0), 0.0, steps=20, speed=10.0)
    assert speed == pytest.approx(10.0 - 1.0 / 0.02 * 20 * DT_S, rel=0.02)


def test_damping_decays_a_speed():
    """Semi-implicit: each step takes the share d dt / I."""
    _, speed = swing(joint(joint_damping=0.2), 0.0, steps=10, speed=4.0)
    assert speed == pytest.approx(4.0 * (1 - 0.2 * DT_S / 0.02) ** 10, rel=1e-5)
