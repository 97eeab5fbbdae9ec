"""MuJoCo Warp's backend on Warp's CPU device: conformance, and the same motion as MuJoCo. A cold kernel cache adds two minutes."""

import gc
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg
from gaussgym_sim.actuation.actuator_net import ActuatorNet, DenseLayer, LstmLayer
from gaussgym_sim.engines.host_view import HostView
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.robot import get_robot
from gaussgym_sim.testing import CONFORMANCE, flat_scene, heights_scene, missing, place, stand, wavy_scene
from gaussgym_sim.testing_robots import check_stands_on_slope
from gaussgym_sim.vecsim import VecSim, make_sim

pytest.importorskip("mujoco_warp")

from gaussgym_sim.engines import mjwarp_ground, mjwarp_overflow, mjwarp_sim, mujoco_sim
from gaussgym_sim.engines.mjwarp_graphs import Graphs

pytestmark = pytest.mark.slow


def make(scenes, num_envs, *, num_threads=None, backend="mjwarp", robot="go1", **options):
    return make_sim(backend, robot, scenes, num_envs, num_threads=num_threads, **options)


@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_conformance(check):
    assert not missing(check, make), "on the CPU it has everything that can be checked"
    for result in check(make):
        assert result.passed, result


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_conformance_on_a_gpu(check):
    def make_there(scenes, num_envs, *, num_threads=None):
        sim = make(scenes, num_envs, device="cuda")
        return HostView(sim, sim.device)

    if lacking := missing(check, make_there):
        pytest.skip(f"no {', '.join(lacking)} on a GPU")
    for result in check(make_there):
        assert result.passed, result


@pytest.mark.parametrize("robot", ["a1", "anymal_c", "go2"])
def test_robots_stand_on_a_slope(robot):
    results = check_stands_on_slope(lambda scenes, n, **o: make(scenes, n, robot=robot), seconds=4.0)
    assert [r for r in results if not r.passed] == []


def gap(one, other):
    """Largest difference of each env's base [m] and torques [Nm]."""
    base = (one.state.root_pos_w - other.state.root_pos_w).abs().amax(1)
    return base.max().item(), (one.state.joint_torque - other.state.joint_torque).abs().max().item()


@pytest.mark.parametrize("ground", ["plane", "heightfield"])
def test_moves_as_mujoco_does(ground):
    """Through the impact of a small drop, then until it stands. On a heightfield MuJoCo Warp's general convex algorithm finds
    contact normals to 2e-4 in single precision; the number of contacts is the same."""
    scene = (
        flat_scene(z_m=0.5) if ground == "plane" else heights_scene(lambda x, y: 0.5 + 0.08 * x - 0.15 * y)
    )
    sims = [make([scene], 3, backend=backend) for backend in ("mjwarp", "mujoco")]
    xy = torch.tensor([[0.0, 0.0], [-2.03, 0.71], [1.47, -0.62]])
    tilt = torch.nn.functional.normalize(torch.tensor([[1.0, -0.075, -0.04, 0.0]]), dim=1)
    quat = tilt.repeat(3, 1) if ground == "heightfield" else None
    for sim in sims:
        height = sim.terrain.sample(xy[:, None], sim.scene_of_env)[:, :1]
        joints = place(sim, pos_w=torch.cat((xy, height + 0.3), 1), quat_wxyz=quat)
    for substeps, limits in (
        (20, {"plane": (1e-6, 1e-3), "heightfield": (1e-4, 0.1)}),
        (60, {"plane": (1e-5, 5e-3), "heightfield": (1e-3, 0.5)}),
    ):
        for _ in range(substeps):
            for sim in sims:
                sim.step(joints, substeps=1)
        base, torque = gap(*sims)
        assert sims[1].state.foot_contact.any(1).all()
        assert base < limits[ground][0]
        assert torque < limits[ground][1]


@pytest.mark.parametrize(
    "values",
    [
        {"armature": 0.02, "joint_damping": 0.3, "joint_friction": 0.4},
        {"link_mass_factor": 1.3, "trunk_mass_kg": 7.0},
        {"compliance": 2.0, "friction": 0.3, "gravity_w": -6.0},
        {"restitution": 1.0},
        {"trunk_com_b": 0.05, "strength": 0.8, "kp": 40.0, "kd": 1.2, "offset": 0.05, "delay_s": 0.02},
    ],
    ids=lambda values: "-".join(values),
)
def test_parameters_do_what_they_do_in_mujoco(values):
    """One env has them, the other is nominal; a drop, its impact and a sideways push."""
    sims = [make([flat_scene()], 2, backend=backend) for backend in ("mjwarp", "mujoco")]
    for sim in sims:
        given = {n: torch.full_like(sim.params[n][:1], v) for n, v in values.items()}
        sim.set_params(torch.tensor([1]), **given)
        joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.36]]).repeat(2, 1))
        sim.push(torch.arange(2), torch.tensor([[10.0, 20.0, 0.0]]).repeat(2, 1))
    swing = 0.1 * torch.tensor([1.0, -1.0]).repeat(6)
    for k in range(10):
        for sim in sims:
            sim.step(joints + swing * (k % 3 - 1))
    one, other = sims
    moved = (other.state.joint_pos[1] - other.state.joint_pos[0]).abs().max()
    moved = max(moved, (other.state.root_pos_w[1] - other.state.root_pos_w[0]).abs().max())
    assert moved > 5e-4, "they change something"
    assert gap(one, other)[0] < 1e-3 * max(1.0, float(moved))
    assert (one.state.joint_pos - other.state.joint_pos).abs().max() < 0.02 * max(float(moved), 0.05)


def test_dc_motor_in_both_engines():
    cfg = ActuatorCfg("dc", stall_torque_nm=(12.0,) * 12, no_load_speed_rad_s=(6.0,) * 12)
    robot = replace(get_robot("go1"), actuator=cfg)
    sims = [make([flat_scene()], 1, backend=backend, robot=robot) for backend in ("mjwarp", "mujoco")]
    for sim in sims:
        joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 2.0]]))
        for k in range(6):
            sim.step(joints + (0.8 if k % 2 else -0.8), substeps=2)
    torque = sims[1].state.joint_torque
    assert (torque.abs() < 11.9).any(), "speeds limit it"
    assert gap(*sims)[1] < 1e-3


def test_learned_actuators_in_both_engines(tmp_path):
    """An LSTM network, whose memory a reset clears and a state holds."""
    rng = np.random.default_rng(5)

    def weights(*shape):
        return rng.normal(scale=0.6, size=shape).astype(np.float32)

    lstm = LstmLayer(weights(16, 2), weights(16, 4), weights(16))
    dense = DenseLayer(60.0 * weights(1, 4), weights(1))
    ActuatorNet((0,), (lstm,), (dense,), "identity").save(tmp_path / "net.npz")
    robot = replace(get_robot("go1"), actuator=ActuatorCfg("net", net=tmp_path / "net.npz"))
    names = ("mjwarp", "mujoco", "mjwarp")
    ours, other, resumed = (make([flat_scene()], 2, backend=name, robot=robot) for name in names)
    for k in range(10):
        if k in (0, 5):
            some = torch.arange(2 if k == 0 else 1)
            for sim in (ours, other):
                joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 2.0]]).repeat(len(some), 1), env_ids=some)
        if k == 7:
            resumed.load_state_dict(ours.state_dict())
        for sim in (ours, other, resumed) if k >= 7 else (ours, other):
            sim.step(joints + 0.5 * (k % 3 - 1))
    assert other.state.joint_torque.abs().max() > 1.0
    assert gap(ours, other)[1] < 1e-3
    assert torch.equal(ours.state.joint_torque, resumed.state.joint_torque)


def test_recorded_launches_give_the_bits_of_plain_ones(monkeypatch):
    """Also after garbage collection and other allocations, and for another number of substeps in between."""
    scenes = [flat_scene(), wavy_scene()]
    recorded = make(scenes, 4)
    monkeypatch.setattr(mjwarp_sim, "Graphs", lambda device: Graphs(device, record=False))
    plain = make(scenes, 4)
    for sim in (recorded, plain):
        stand(sim, control_steps=3)
    joints = torch.tensor(plain.robot.default_joint_pos).repeat(4, 1)
    kept = []
    for k in range(12):
        gc.collect()
        kept.append(torch.rand(1000 + 500 * k))
        for sim in (recorded, plain):
            sim.step(joints + 0.05 * k, substeps=1 if k % 4 == 3 else 4)
            sim.set_params(torch.tensor([k % 4]), trunk_mass_kg=torch.tensor([5.0 + 0.1 * k]))
        for name, tensor in vars(plain.state).items():
            assert torch.equal(tensor, getattr(recorded.state, name)), (k, name)


def test_overflow_is_told_counted_and_mended(caplog):
    """Room for one contact's rows lets a robot sink; at the next reset there is more, and it stands."""
    robot, scene = get_robot("go1"), flat_scene()
    sim = mjwarp_sim.MjwarpSim(robot, [scene], 2, constraints_per_env=8)
    twin = make([scene], 2)
    with caplog.at_level(logging.WARNING):
        stand(sim, control_steps=20)
        assert sim.overflow_count == 0, "it looks at resets only"
        for each in (sim, twin):
            stand(each, control_steps=0)
            place(each, pos_w=torch.tensor([[0.0, 0.0, 0.3]]), env_ids=torch.tensor([1]))
    assert sim.overflow_count == 2
    (record,) = caplog.records
    assert "2 environments had more than 8 constraints an environment (constraints_per_env)" in record.message
    joints = torch.tensor(robot.default_joint_pos).repeat(2, 1)
    for each in (sim, twin):
        for _ in range(5):
            each.step(joints)
    assert torch.equal(sim.state.root_pos_w, twin.state.root_pos_w), "16 rows are enough for four feet"


def test_what_cannot_grow_is_told_once(caplog, monkeypatch):
    """A shape over very many cells; it is counted each time."""
    sim = make([flat_scene()], 2)
    bits = int(mjwarp_overflow.OverflowType.HFIELD)
    monkeypatch.setattr(sim._watch, "poll", lambda data: (bits, 2))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            stand(sim, control_steps=1)
    (record,) = caplog.records
    assert "50 contacts of one shape with the heightfield (coarser cells have fewer)" in record.message
    assert sim.overflow_count == 6


def test_one_bad_world_leaves_the_others_alone():
    sims = [make([flat_scene(), wavy_scene()], 4) for _ in range(2)]
    for sim in sims:
        stand(sim, control_steps=5)
    bad = sims[0]
    joints = place(bad, pos_w=torch.tensor([[0.0, float("nan"), 0.3]]), env_ids=torch.tensor([2]))
    for _ in range(10):
        for sim in sims:
            sim.step(joints + 0.1)
    assert bad.state.invalid.tolist() == [False, False, True, False]
    assert bad.invalid_count == 10
    others = [0, 1, 3]
    assert torch.equal(bad.state.joint_pos[others], sims[1].state.joint_pos[others])
    assert torch.isfinite(bad.state.joint_pos).all()


def test_state_is_what_kernels_write_and_matches_the_protocol():
    sim = make([flat_scene()], 2)
    assert isinstance(sim, VecSim)
    kept = sim.state.root_pos_w
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]))
    sim.step(joints)
    assert kept is sim.state.root_pos_w
    assert 1.9 < float(kept[1, 2]) < 2.0


def test_feet_after_a_reset_are_mujocos():
    """They come from the robot's own kinematics there, not from a step."""
    sims = [make([flat_scene()], 3, backend=backend) for backend in ("mjwarp", "mujoco")]
    rng = torch.Generator().manual_seed(2)
    quat = torch.nn.functional.normalize(torch.randn(2, 4, generator=rng), dim=1)
    lin, ang, vel = (torch.randn(2, n, generator=rng) for n in (3, 3, 12))
    for sim in sims:
        stand(sim, control_steps=2)
        sim.reset(
            torch.tensor([0, 2]), root_pos_w=torch.tensor([[1.0, 2.0, 3.0], [-1.0, 0.0, 2.0]]), root_quat_wxyz=quat,
            root_lin_vel_w=lin, root_ang_vel_b=ang, joint_pos=torch.tensor(sim.robot.default_joint_pos) + 0.1 * vel,
            joint_vel=vel,
        )  # fmt: skip
    one, other = sims
    for name in ("foot_pos_w", "foot_vel_w"):
        assert (getattr(one.state, name) - getattr(other.state, name)).abs().max() < 2e-6, name
    assert not one.state.foot_force_w[[0, 2]].any()


def with_boxes(monkeypatch, boxes_of):
    """Scenes get boxes by their names, in both engines."""

    def ground(scene, mode):
        return replace(ground_of(scene, "heightfield"), boxes=boxes_of.get(scene.name, Boxes.none()))

    ground_of = mjwarp_ground.ground_of
    monkeypatch.setattr(mjwarp_ground, "ground_of", ground)
    monkeypatch.setattr(mujoco_sim, "ground_of", ground)


def platform(top_m, count=1):
    """A box under the origin, and others far away."""
    centre = np.array([[0.0, 0.0, top_m - 0.5]] + [[50.0 + k, 0.0, 0.0] for k in range(count - 1)])
    return Boxes(centre, np.array([[1.0, 1.0, 0.5]] + [[0.2, 0.2, 0.2]] * (count - 1)))


def test_boxes_belong_to_their_scene(monkeypatch):
    """Robots stand on the boxes of their own scene, where MuJoCo's do; more boxes than ever before mean a larger model."""
    boxes = {"high": platform(0.6), "many": platform(1.2, count=40)}
    with_boxes(monkeypatch, boxes)
    bare, high, many = flat_scene(), flat_scene(), flat_scene()
    high.name, many.name = "high", "many"
    sims = [make([bare, high], 4, backend=backend) for backend in ("mjwarp", "mujoco")]
    start = torch.tensor([[0.0, 0.0, z] for z in (0.32, 0.32, 0.92, 0.92)])
    for sim in sims:
        joints = place(sim, pos_w=start)
        for _ in range(25):
            sim.step(joints)
    assert gap(*sims)[0] < 1e-3
    assert sims[0].state.foot_contact.all()
    for sim in sims:
        sim.set_scene(torch.tensor([0, 1]), many)
        joints = place(sim, pos_w=start[:2] + torch.tensor([0.0, 0.0, 1.2]), env_ids=torch.tensor([0, 1]))
        for _ in range(25):
            sim.step(joints)
    assert sims[0]._grounds.num_boxes == 48
    feet = sims[0].state.foot_pos_w[:, :, 2] - sims[0].robot.foot_radius_m
    assert (feet[:2] - 1.2).abs().max() < 0.006
    assert (feet[2:] - 0.6).abs().max() < 0.006
    assert gap(*sims)[0] < 1e-3


def test_a_scene_with_a_larger_grid_leaves_the_others_alone():
    """The heights of all scenes move in memory; who stays goes on to the bit."""
    small, large = wavy_scene(), heights_scene(lambda x, y: 0.2 + 0.1 * x, cell_m=0.05, size_m=(14.0, 9.0))
    sim, twin = make([flat_scene(), small], 4), make([flat_scene(), small], 4)
    for each in (sim, twin):
        stand(each, control_steps=4)
    sim.set_scene(torch.tensor([0, 1]), large)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.55]]).repeat(2, 1), env_ids=torch.tensor([0, 1]))
    for _ in range(40):
        for each in (sim, twin):
            each.step(joints)
    assert torch.equal(sim.state.root_pos_w[2:], twin.state.root_pos_w[2:])
    feet = sim.state.foot_pos_w[:2]
    ground = 0.2 + 0.1 * feet[..., 0]
    assert ((feet[..., 2] - ground) - sim.robot.foot_radius_m).abs().max() < 0.008


EXPERIMENT = Path(__file__).parents[2] / "experiments" / "gpu" / "sim.py"


@pytest.mark.skipif(not EXPERIMENT.exists(), reason="the package alone, without the experiments beside it")
def test_the_gpu_experiment_rehearses_on_the_cpu(tmp_path):
    """What a machine with a GPU is to run once must not fail there for a slip of the pen."""
    options = ["--device", "cpu", "--num-envs", "4", "--steps", "2", "--rounds", "1", "--checks", "1"]
    command = [sys.executable, str(EXPERIMENT), *options, "--output", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["passed"] for row in report["conformance"]] == [True]
    assert [row["ground"] for row in report["rates"]] == ["flat", "stairs 10 cm"]
    assert all(row["control_steps_per_s"] > 0 and row["lost_or_invalid"] == 0 for row in report["rates"])
    assert report["two_runs_part_by"] == {"median": 0.0, "most": 0.0}
