import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussgym_scene.command import run as run_command
from gaussgym_scene.errors import InputError
from gaussgym_sim.__main__ import ImportActuator
from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg
from gaussgym_sim.actuation.actuator_net import ACTIVATIONS, ActuatorNet, DenseLayer, LstmLayer, _activate
from gaussgym_sim.actuation.import_actuator import import_torchscript
from gaussgym_sim.robot import get_robot
from gaussgym_sim.testing import flat_scene, place
from gaussgym_sim.vecsim import make_sim
from torch import nn

MODULES = {
    "relu": nn.ReLU, "elu": nn.ELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "softsign": nn.Softsign,
}  # fmt: skip


class Anydrive(nn.Module):
    """The form of legged_gym's LSTM network: scaled inputs, two layers of eight cells, one output."""

    def __init__(self):
        super().__init__()
        self.register_buffer("in_scale", torch.tensor([[[2.0, 0.1]]]))
        self.register_buffer("out_scale", torch.tensor([20.0]))
        self.lstm = nn.LSTM(2, 8, 2, batch_first=True)
        self.linear = nn.Linear(8, 1)

    def forward(
        self, x: torch.Tensor, hc: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        y, hc = self.lstm(x * self.in_scale, hc)
        return self.out_scale * self.linear(y).squeeze(), hc


class Saturating(nn.Module):
    """A last step that no weights tell of."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        return torch.tanh(self.net(x))


def mlp(activation="softsign", inputs=6):
    torch.manual_seed(1)
    act = MODULES[activation]
    return nn.Sequential(nn.Linear(inputs, 32), act(), nn.Linear(32, 32), act(), nn.Linear(32, 1))


def script(module, folder):
    path = folder / "net.pt"
    torch.jit.save(torch.jit.script(module.eval()), str(path))
    return path


def run(net, errors, velocities, joints=1):
    """Torques [T, E, J] of sequences [T, E, J]."""
    runtime = net.start(errors.shape[1], joints)
    everyone = np.arange(errors.shape[1])
    return np.stack([runtime.torque(everyone, e, v).copy() for e, v in zip(errors, velocities, strict=True)])


def sequences(steps=40, envs=70, joints=2, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.3, (steps, envs, joints)), rng.normal(0, 5, (steps, envs, joints))


@pytest.mark.parametrize("activation", sorted(MODULES))
def test_mlp_equals_the_torchscript_module(tmp_path, activation):
    module = mlp(activation)
    net = import_torchscript(script(module, tmp_path), tmp_path / "net.npz")
    assert (net.activation, net.history, net.lstm) == (activation, (0, 1, 2), ())
    errors, velocities = sequences()
    ours = run(ActuatorNet.load(tmp_path / "net.npz"), errors, velocities, joints=2)
    padded = np.concatenate((np.zeros((2, *errors.shape[1:])), errors))
    padded_v = np.concatenate((np.zeros((2, *errors.shape[1:])), velocities))
    columns = [p[2 - k : len(p) - k] for p in (padded, padded_v) for k in range(3)]
    with torch.no_grad():
        truth = module(torch.from_numpy(np.stack(columns, axis=-1)).float())[..., 0].numpy()
    np.testing.assert_allclose(ours, truth, atol=2e-5 * max(1.0, np.abs(truth).max()))
    assert np.abs(truth).max() > 0.1


def test_lstm_equals_the_torchscript_module_and_its_scales(tmp_path):
    torch.manual_seed(2)
    module = Anydrive()
    net = import_torchscript(script(module, tmp_path), tmp_path / "net.npz", kind="lstm")
    assert (len(net.lstm), len(net.dense)) == (2, 1)
    errors, velocities = sequences(joints=1)
    ours = run(net, errors, velocities)
    with torch.no_grad():
        x = torch.from_numpy(np.stack((errors, velocities), axis=-1)).float()[:, :, 0].transpose(0, 1)
        y, _ = module.lstm(x * module.in_scale)
        truth = 20.0 * module.linear(y)[..., 0].T.numpy()
    np.testing.assert_allclose(ours[..., 0], truth, atol=1e-5 * np.abs(truth).max())
    assert np.abs(truth[-1] - truth[0]).max() > 0.1


def test_lstm_equals_its_equations_in_float64():
    """A slow twin of one layer, from the definition of the gates."""
    rng = np.random.default_rng(3)
    h = 5
    layer = LstmLayer(*(rng.normal(0, 0.5, s).astype(np.float32) for s in ((4 * h, 2), (4 * h, h), (4 * h,))))
    head = DenseLayer(rng.normal(0, 1, (1, h)).astype(np.float32), np.array([0.5], np.float32))
    net = ActuatorNet((0,), (layer,), (head,), "identity")
    errors, velocities = sequences(steps=20, envs=3, joints=1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    hidden, cell, truth = np.zeros((3, h)), np.zeros((3, h)), []
    for e, v in zip(errors, velocities, strict=True):
        x = np.concatenate((e, v), axis=1)
        gates = x @ layer.from_input.T.astype(float) + hidden @ layer.from_hidden.T.astype(float) + layer.bias
        i, f, g, o = np.split(gates, 4, axis=1)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        truth.append(hidden @ head.weight.T.astype(float) + 0.5)
    np.testing.assert_allclose(run(net, errors, velocities), np.array(truth), atol=3e-6)


def test_activations_agree_with_torch():
    x = np.linspace(-30, 30, 64 * 50, dtype=np.float32).reshape(50, 64)
    for index, name in enumerate(ACTIVATIONS):
        ours = x.copy()
        for row in ours:
            _activate(row, index)
        truth = x if name == "identity" else MODULES[name]()(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(ours, truth, atol=5e-7)


def test_a_linear_network_is_a_pd_controller():
    net = pd_net(kp=40.0, kd=2.0)
    torque = net.start(2, 3).torque(
        np.arange(2), np.full((2, 3), 0.5), np.array([[0, 1, -1], [2, 3, 4]], float)
    )
    np.testing.assert_allclose(torque, [[20, 18, 22], [16, 14, 12]])


def pd_net(kp, kd):
    return ActuatorNet(
        (0,), (), (DenseLayer(np.array([[kp, -kd]], np.float32), np.zeros(1, np.float32)),), "identity"
    )


def test_velocity_first_other_times_and_outer_scales(tmp_path):
    """One linear layer: torque = 10 (1 v(2) + 2 v(0) + 3 e(2) + 4 e(0)) with e scaled by 0.5 and v by 0.1."""
    module = nn.Sequential(nn.Linear(4, 1, bias=False))
    module[0].weight.data = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    net = import_torchscript(
        script(module, tmp_path), tmp_path / "net.npz", history=(2, 0), order="velocity_first",
        error_scale=0.5, velocity_scale=0.1, torque_scale=10.0,
    )  # fmt: skip
    errors, velocities = np.array([1.0, 0, 2]).reshape(3, 1, 1), np.array([5.0, 0, 7]).reshape(3, 1, 1)
    torque = run(net, errors, velocities)[:, 0, 0]
    now_0 = 10 * (0 + 2 * 0.5 + 0 + 4 * 0.5)
    now_2 = 10 * (1 * 0.5 + 2 * 0.7 + 3 * 0.5 + 4 * 1.0)
    np.testing.assert_allclose(torque, [now_0, 0.0, now_2], rtol=1e-6)


def test_a_module_that_does_more_than_its_weights_is_refused(tmp_path):
    torch.manual_seed(3)
    with pytest.raises(InputError, match="differ from those of its weights"):
        import_torchscript(script(Saturating(), tmp_path), tmp_path / "net.npz")
    assert not (tmp_path / "net.npz").exists()


def test_bad_files_and_options_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        import_torchscript(tmp_path / "none.pt", tmp_path / "net.npz")
    (tmp_path / "bad.pt").write_bytes(b"no zip")
    with pytest.raises(InputError, match="no TorchScript module"):
        import_torchscript(tmp_path / "bad.pt", tmp_path / "net.npz")
    path = script(mlp(), tmp_path)
    with pytest.raises(InputError, match="is an mlp, but kind 'lstm'"):
        import_torchscript(path, tmp_path / "net.npz", kind="lstm")
    with pytest.raises(InputError, match="2 times of history for 6 inputs, expected 3"):
        import_torchscript(path, tmp_path / "net.npz", history=(0, 1))
    with pytest.raises(InputError, match="has 5 inputs"):
        import_torchscript(script(mlp(inputs=5), tmp_path), tmp_path / "net.npz")
    with pytest.raises(InputError, match="no such file"):
        ActuatorNet.load(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="no actuator network"):
        ActuatorNet.load(tmp_path / "bad.npz")
    np.savez(
        tmp_path / "new.npz", header=np.array(json.dumps({"format": "gaussgym-actuator-net", "version": 9}))
    )
    with pytest.raises(InputError, match="version 9, expected"):
        ActuatorNet.load(tmp_path / "new.npz")
    with pytest.raises(InputError, match="dense layer 0 of an actuator network has weights of shape"):
        ActuatorNet((0, 1), (), pd_net(1, 1).dense, "identity")


def test_memory_is_each_environments_own(tmp_path):
    """Runs of environments one by one, a reset in the middle, and a state put back: all as they must be."""
    torch.manual_seed(2)
    nets = [
        import_torchscript(script(module, tmp_path), tmp_path / "net.npz") for module in (Anydrive(), mlp())
    ]
    errors, velocities = sequences(steps=12, envs=9, joints=3)
    for net in nets:
        whole = run(net, errors, velocities, joints=3)
        runtime, out = net.start(9, 3), np.zeros_like(whole)
        for part in (np.array([0, 3, 4, 8]), np.array([1, 2, 5, 6, 7])):
            for t in range(12):
                out[t, part] = runtime.torque(part, errors[t, part], velocities[t, part])
        np.testing.assert_array_equal(out, whole)
        runtime = net.start(9, 3)
        for t in range(5):
            runtime.torque(np.arange(9), errors[t], velocities[t])
        runtime.reset(np.array([2, 7]))
        kept = runtime.state_dict()
        after = [runtime.torque(np.arange(9), errors[t], velocities[t]).copy() for t in range(5, 12)]
        fresh = run(net, errors[5:], velocities[5:], joints=3)
        np.testing.assert_array_equal(np.array(after)[:, [2, 7]], fresh[:, [2, 7]])
        others = [i for i in range(9) if i not in (2, 7)]
        np.testing.assert_array_equal(np.array(after)[:, others], whole[5:, others])
        other = net.start(9, 3)
        other.load_state_dict(kept)
        again = [other.torque(np.arange(9), errors[t], velocities[t]).copy() for t in range(5, 12)]
        np.testing.assert_array_equal(again, after)
        with pytest.raises(InputError, match="another network or number of robots"):
            net.start(8, 3).load_state_dict(kept)


def test_a_robot_with_a_network_moves_as_its_pd_controller(tmp_path):
    """The same law, in float32 instead of float64: two robots part by rounding alone."""
    robot = replace(get_robot("go1"), kp=(30.0,) * 12, kd=(0.7,) * 12)
    pd_net(30.0, 0.7).save(tmp_path / "pd.npz")
    with_net = replace(robot, actuator=ActuatorCfg(kind="net", net=tmp_path / "pd.npz"))
    states = []
    for cfg in (robot, with_net):
        sim = make_sim("mujoco", cfg, [flat_scene()], 3)
        joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.0]] * 3))
        for _ in range(5):
            sim.step(joints + torch.tensor([[0.1], [0.2], [-0.1]]))
        states.append(sim.state)
    moved = (states[0].joint_pos - joints).abs()
    assert moved.max() > 0.05
    np.testing.assert_allclose(states[1].joint_pos, states[0].joint_pos, atol=2e-5)
    np.testing.assert_allclose(states[1].joint_torque, states[0].joint_torque, atol=2e-3)


def test_the_command_writes_the_file_or_says_why_not(tmp_path, capsys):
    path, output = script(mlp("elu"), tmp_path), tmp_path / "out.npz"
    assert run_command(ImportActuator(path, output).run) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    assert ActuatorNet.load(output).activation == "elu"
    assert run_command(ImportActuator(path, tmp_path / "no.npz", activation="tanh").run) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "torques differ" in error
    assert not (tmp_path / "no.npz").exists()


def test_an_error_of_the_other_sign_is_a_scale(tmp_path):
    """A module that takes position less target, as those of Walk These Ways: torque -3 per unit of it."""
    module = nn.Sequential(nn.Linear(2, 1, bias=False))
    module[0].weight.data = torch.tensor([[-3.0, -0.5]])
    net = import_torchscript(script(module, tmp_path), tmp_path / "net.npz", error_scale=-1.0)
    torque = net.start(1, 1).torque(np.arange(1), np.array([[2.0]]), np.array([[1.0]]))
    assert float(torque[0, 0]) == pytest.approx(3.0 * 2.0 - 0.5)
