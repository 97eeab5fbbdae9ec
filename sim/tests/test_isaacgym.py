"""The isaacgym backend: its worker, in a process of its own, over the stand-in for NVIDIA's package."""

import ast
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.mesh import Mesh
from gaussgym_scene.scene import Scene
from gaussgym_sim.engines.bridge import BridgeError
from gaussgym_sim.engines.isaacgym_sim import (
    GAP_M,
    LEVEL_MARGIN_M,
    IsaacGymCfg,
    ground_triangles,
    pack_scenes,
)
from gaussgym_sim.env import Env
from gaussgym_sim.env_cfg import EnvCfg
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.ground.terrain import Ground, ground_of
from gaussgym_sim.grounds import flat_scene, place, stand, wavy_scene
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.robot import robot_names
from gaussgym_sim.testing import CONFORMANCE, missing
from gaussgym_sim.vecsim import VecSim, make_sim

STAND_IN = Path(__file__).with_name("isaacgym_stand_in")
SOURCES = Path(sys.modules["gaussgym_sim"].__file__).parent / "engines"
ON_PYTHON_3_8 = ("isaacgym_worker.py", "isaacgym_actuators.py", "bridge_wire.py")


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PYTHON", sys.executable)
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PYTHONPATH", str(STAND_IN))


def make(scenes, num_envs, *, num_threads=None, robot="go1", terrain="boxes"):
    return make_sim("isaacgym", robot, scenes, num_envs, num_threads=num_threads, terrain=terrain)


NEVER = {"gravity_w", "set_scene", "state_dict"}
QUICK = {"check_frames"}


@pytest.mark.parametrize(
    "check",
    [pytest.param(c, marks=() if c.__name__ in QUICK else pytest.mark.slow) for c in CONFORMANCE],
    ids=lambda check: check.__name__,
)
def test_conformance(check):
    """The stand-in gives the same bits twice, so that those checks are run too, though Isaac Gym does not promise it."""
    lacking = missing(check, make) - {"deterministic"}
    assert lacking <= NEVER
    if lacking:
        pytest.skip(f"Isaac Gym has no {', '.join(sorted(lacking))}")
    for result in check(make):
        assert result.passed, result


def test_what_it_can_do_and_what_it_refuses():
    sim = make([flat_scene(), wavy_scene()], 3)
    assert isinstance(sim, VecSim)
    assert sim.capabilities == {
        "kp", "kd", "strength", "offset", "delay_s", "armature", "joint_damping", "joint_friction", "friction", "restitution",
        "trunk_mass_kg", "trunk_com_b", "link_mass_factor", "mesh", "park",
    }  # fmt: skip
    assert sim.total_mass_kg == pytest.approx(12.743448, rel=1e-6)
    assert sim.link_names == tuple(
        f"{leg}_{part}" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")
    )
    assert sim.scene_of_env.tolist() == [0, 1, 1]
    ids = torch.tensor([0])
    for call, message in (
        (lambda: sim.set_scene(ids, flat_scene()), "'isaacgym' has no 'set_scene'"),
        (sim.state_dict, "has no 'state_dict'"),
        (lambda: sim.set_params(ids, gravity_w=torch.zeros(1, 3)), "has no parameter 'gravity_w'"),
        (lambda: sim.set_params(ids, compliance=torch.zeros(1)), "has no parameter 'compliance'"),
        (
            lambda: sim.set_params(ids, restitution=torch.tensor([1.5])),
            r"restitution of 1.5 to 1.5, expected 0 to 1",
        ),
        (lambda: sim.set_params(ids, delay_s=torch.tensor([0.2])), "delays beyond 0 to 12"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 1.0]]).repeat(3, 1))
    sim.step(torch.tensor(sim.robot.default_joint_pos).repeat(3, 1))  # and goes on


def test_feet_after_a_reset_are_where_the_engine_then_has_them():
    """The kinematics of this side against the engine's, one substep later, in an unusual state; offsets between scenes cancel."""
    sim = make([wavy_scene(), flat_scene(), flat_scene(z_m=1.0)], 6)
    generator = torch.Generator().manual_seed(0)
    pos = torch.tensor([0.0, 0.0, 4.0]) + torch.randn(6, 3, generator=generator)
    quat = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
    place(
        sim,
        pos_w=pos,
        quat_wxyz=quat,
        ang_vel_b=torch.randn(6, 3, generator=generator),
        lin_vel_w=torch.ones(6, 3),
    )
    before, speed = sim.state.foot_pos_w.clone(), sim.state.foot_vel_w.clone()
    targets = torch.tensor(sim.robot.default_joint_pos).repeat(6, 1)
    sim.step(targets, substeps=1)
    torch.testing.assert_close(sim.state.foot_pos_w, before + 0.005 * sim.state.foot_vel_w, atol=1e-4, rtol=0)
    torch.testing.assert_close(sim.state.foot_vel_w, speed, atol=0.2, rtol=0)
    # Free fall of the whole robot, also where its joints move: its own origin goes on as in MuJoCo.
    twin = make_sim("mujoco", "go1", sim.scenes, 6)
    place(twin, pos_w=pos, quat_wxyz=quat, lin_vel_w=torch.ones(6, 3))
    place(sim, pos_w=pos, quat_wxyz=quat, lin_vel_w=torch.ones(6, 3))
    torch.testing.assert_close(sim.state.foot_pos_w, twin.state.foot_pos_w, atol=2e-6, rtol=0)
    torch.testing.assert_close(sim.state.foot_vel_w, twin.state.foot_vel_w, atol=1e-5, rtol=0)
    for each in (sim, twin):
        each.step(targets + 0.2, substeps=8)
    for name, tolerance in (
        ("root_pos_w", 1e-4), ("root_quat_wxyz", 1e-3), ("root_lin_vel_w", 1e-2), ("root_ang_vel_b", 5e-2), ("joint_pos", 2e-3),
    ):  # fmt: skip
        torch.testing.assert_close(
            getattr(sim.state, name), getattr(twin.state, name), atol=tolerance, rtol=0
        )


def test_feet_placed_at_a_reset_stay_until_the_next_step_on_another_device(monkeypatch):
    """Copies are brought up to date from the block by any call; feet that were placed here must not be lost by that."""
    monkeypatch.setattr("gaussgym_sim.engines.bridge.sees_block", lambda device: False)
    sim = make([flat_scene()], 2)
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 4.0]]))
    feet = sim.state.foot_pos_w.clone()
    assert float((feet[1] - feet[0])[:, 2].mean()) == pytest.approx(1.0, abs=1e-5)
    sim.kick(torch.tensor([0]), torch.ones(1, 3))
    place(sim, pos_w=torch.tensor([[0.0, 0.0, 3.0]]), env_ids=torch.tensor([0]))
    assert torch.equal(sim.state.foot_pos_w, feet)


@pytest.mark.slow
def test_a_turning_base_moves_about_its_centre_of_mass():
    """Velocities of the origin and of the centre of mass differ by spin x arm; with the other one the base would drift."""
    sim = make([flat_scene()], 1)
    sim.set_params(torch.tensor([0]), trunk_com_b=torch.tensor([[0.1, 0.0, 0.0]]))
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 5.0]]), ang_vel_b=torch.tensor([[0.0, 0.0, 4.0]]))
    sim.step(joints, substeps=1)
    moved = sim.state.root_pos_w[0, :2]
    # The origin, told to rest at first, is pulled inward by no more than w^2 r dt^2.
    assert float(moved.norm()) < 4.0**2 * 0.1 * 0.005**2 * 3
    assert float(moved.norm()) < 0.2 * 4.0 * 0.1 * 0.005


# ---------------------------------------------------------------------- parameters and their effect


def hung(num_envs, **params):
    """Robots in the air without gains; their legs swing."""
    sim = make([flat_scene()], num_envs)
    zero = torch.zeros(num_envs, 12)
    sim.set_params(torch.arange(num_envs), kp=zero, kd=zero, **params)
    return sim, place(sim, pos_w=torch.tensor([[0.0, 0.0, 30.0]]).repeat(num_envs, 1))


def test_damping_dry_friction_and_rotors_of_joints():
    """In free fall only they act on a leg that moves: damped, it slows; dry, it stops; with a heavier rotor, it slows less."""
    rows = torch.tensor([[0.0], [0.3], [0.0], [0.0], [0.3]]).repeat(1, 12)
    dry = torch.tensor([[0.0], [0.0], [0.4], [0.0], [0.0]]).repeat(1, 12)
    rotor = torch.tensor([[0.01], [0.01], [0.01], [0.1], [0.1]]).repeat(1, 12)
    sim, joints = hung(5, joint_damping=rows, joint_friction=dry, armature=rotor)
    swing = torch.zeros(5, 12)
    swing[:, 2] = 4.0  # one calf
    sim.reset(
        torch.arange(5), root_pos_w=sim.state.root_pos_w.clone(), root_quat_wxyz=sim.state.root_quat_wxyz.clone(),
        root_lin_vel_w=torch.zeros(5, 3), root_ang_vel_b=torch.zeros(5, 3), joint_pos=joints, joint_vel=swing,
    )  # fmt: skip
    sim.step(joints, substeps=10)
    speed = sim.state.joint_vel[:, 2]
    free, damped, stopped, heavy, heavy_damped = speed.tolist()
    assert free > 3.0
    assert damped < 0.6 * free
    assert stopped < 0.7 * free
    assert heavy_damped > 1.3 * damped
    assert heavy > 3.0
    assert float(sim.state.joint_torque.abs().max()) == 0.0  # motors alone


@pytest.mark.slow
def test_restitution():
    """A robot on stiff legs dropped on the ground leaves it faster the higher its restitution."""
    sim = make([flat_scene()], 2)
    ones = torch.ones(2, 12)
    sim.set_params(torch.arange(2), kp=150 * ones, kd=3 * ones, restitution=torch.tensor([0.0, 1.0]))
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.45]]).repeat(2, 1))
    highest = torch.full((2,), -1.0)
    for _ in range(30):
        sim.step(joints, substeps=2)
        touched = sim.state.foot_vel_w[..., 2].amax(dim=1)
        highest = torch.maximum(highest, touched)
    assert highest[1] > highest[0] + 0.2


@pytest.mark.slow
def test_masses_of_links_and_soles():
    """Twice the mass of all links shows on the scales, soles included."""
    sim = make([flat_scene()], 2)
    ones = torch.ones(2, 12)
    sim.set_params(torch.arange(2), kp=120 * ones, kd=3 * ones)
    sim.set_params(torch.tensor([1]), link_mass_factor=1.5 * torch.ones(1, 12))
    stand(sim, control_steps=100)
    force = sim.state.foot_force_w[..., 2].sum(dim=1)
    links = sim.total_mass_kg - sim.robot.trunk_mass_kg
    assert float(force[1] - force[0]) == pytest.approx(0.5 * links * 9.81, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", robot_names())
def test_every_robot_stands_or_at_least_starts(name):
    sim = make([flat_scene()], 1, robot=name)
    height = sim.robot.base_height_m + 0.02
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, height]]))
    for _ in range(50):
        sim.step(joints)
    assert not sim.state.invalid.any()
    if len(sim.robot.leg_names) == 4:
        assert sim.state.foot_contact.all()
        weight = sim.total_mass_kg * 9.81
        assert float(sim.state.foot_force_w[0, :, 2].sum()) == pytest.approx(weight, rel=0.1)


@pytest.mark.slow
def test_an_environment_runs_on_it():
    """Everything that the extreme preset asks for and this engine has, over resets; robots fall and start again."""
    sim = make([wavy_scene(), flat_scene()], 6)
    randomize, left_out = randomize_preset("extreme").supported_by(sim.capabilities)
    assert set(left_out) == {"compliance", "gravity_m_s2"}
    env = Env(sim, EnvCfg(randomize=randomize), seed=3)
    generator = torch.Generator().manual_seed(1)
    ended = 0
    for _ in range(60):
        observations, reward, dones, _ = env.step(torch.randn(6, 12, generator=generator))
        assert torch.isfinite(observations["proprio"]).all()
        assert torch.isfinite(reward).all()
        ended += int(dones.sum())
    assert ended > 0
    assert sim.invalid_count == 0


# ---------------------------------------------------------------------- grounds


@pytest.mark.slow
def test_boxes_and_a_mesh_can_be_stood_on(monkeypatch):
    """A table over level ground, as boxes, and a valley with walls at 27 degrees, as the triangles that it is."""
    flat = flat_scene()
    field = ground_of(flat).heightfield
    table = Boxes(np.array([[0.0, 0.0, 0.5]]), np.array([[1.0, 1.0, 0.05]]))
    corners = np.array(
        [[-8, -3, 1.5], [8, -3, 1.5], [-8, 0, 0], [8, 0, 0], [-8, 3, 1.5], [8, 3, 1.5]], np.float32
    )
    valley = Mesh(corners, np.array([[0, 1, 3], [0, 3, 2], [2, 3, 5], [2, 5, 4]], np.int32), None)
    grounds = {"table": Ground(field, table), "valley": Ground(field, Boxes.none(), valley)}
    monkeypatch.setattr(
        "gaussgym_sim.engines.isaacgym_sim.ground_of", lambda scene, mode: grounds[scene.name]
    )
    scenes = [Scene(name, heightfield=flat.heightfield, paths=flat.paths) for name in grounds]
    sim = make(scenes, 3, terrain="mesh")
    start = torch.tensor([[0.0, 0.0, 0.87], [1.0, 0.0, 0.42], [-2.0, 0.0, 0.42]])
    joints = place(sim, pos_w=start)
    for _ in range(50):
        sim.step(joints)
    feet, radius = sim.state.foot_pos_w, sim.robot.foot_radius_m
    assert sim.state.foot_contact.all()
    np.testing.assert_allclose(feet[0, :, 2] - radius, 0.55, atol=0.01)
    # A ball on a slope of one in two touches it beside its lowest point.
    over = (feet[1:, :, 2] - 0.5 * feet[1:, :, 1].abs()) / np.hypot(1.0, 0.5)
    np.testing.assert_allclose(over, radius, atol=0.01)


def test_triangles_of_a_ground_point_up_and_lie_on_it():
    ground = ground_of(wavy_scene())
    vertices, triangles = ground_triangles(ground)
    corners = vertices[triangles].astype(np.float64)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (normals[:, 2] > 0).all()
    np.testing.assert_allclose(vertices[:, 2], ground.heightfield.sample(vertices[:, :2]), atol=1e-6)
    area = normals[:, 2].sum() / 2
    assert area == pytest.approx(np.prod(ground.heightfield.size_m), rel=1e-6)


def test_scenes_lie_apart_in_one_world():
    grounds = [
        ground_of(s) for s in (flat_scene(), wavy_scene(), flat_scene(z_m=2.0), wavy_scene(), wavy_scene())
    ]
    packed = pack_scenes(grounds, np.array([0, 1, 1, 2, 3, 4]))
    boxes = []
    for k, offset in enumerate(packed["offset_xy_m"]):
        xy = packed[f"vertices_{k}"][:, :2] + offset
        boxes.append((xy.min(axis=0), xy.max(axis=0)))
    for i in range(5):
        for j in range(i):
            apart = np.maximum(boxes[i][0] - boxes[j][1], boxes[j][0] - boxes[i][1]).max()
            assert apart >= GAP_M - 1e-3
    level = boxes[0][1] - boxes[0][0]
    np.testing.assert_allclose(level, [40.0 + 2 * LEVEL_MARGIN_M, 5.0 + 2 * LEVEL_MARGIN_M], atol=1e-3)
    for env, k in enumerate(packed["scene_of_env"]):
        spawn = packed["spawn_w"][env]
        assert (boxes[k][0] < spawn[:2]).all()
        assert (spawn[:2] < boxes[k][1]).all()
        assert spawn[2] > packed[f"vertices_{k}"][:, 2].max()


# ---------------------------------------------------------------------- the other Python


def test_errors_of_the_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PYTHONPATH", str(tmp_path))
    with pytest.raises(
        BridgeError,
        match=r"died during start \(exit status 1\): ModuleNotFoundError: No module named 'isaacgym'",
    ):
        make([flat_scene()], 1)
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PYTHON", "/nowhere/python3.8")
    with pytest.raises(InputError, match=r"/nowhere/python3\.8: no such program"):
        make([flat_scene()], 1)
    monkeypatch.delenv("GAUSSGYM_ISAACGYM_PYTHON")
    monkeypatch.setattr("gaussgym_sim.engines.isaacgym_sim.MADE_PYTHON", tmp_path / "python")
    with pytest.raises(InputError, match=r"run `make isaacgym ISAACGYM_TARBALL="):
        make([flat_scene()], 1)


def test_where_physics_and_tensors_are(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    assert IsaacGymCfg().placed(cpu) == (False, False)
    assert IsaacGymCfg().placed(gpu) == (True, True)
    assert IsaacGymCfg(gpu_pipeline=False).placed(gpu) == (True, False)
    assert IsaacGymCfg(physics_on_gpu=True).placed(cpu) == (True, True)
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PIPELINE", "cpu")
    assert IsaacGymCfg().placed(gpu) == (True, False)
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PIPELINE", "gpu")
    with pytest.raises(InputError, match="wants physics on the GPU"):
        IsaacGymCfg().placed(cpu)
    monkeypatch.setenv("GAUSSGYM_ISAACGYM_PIPELINE", "fast")
    with pytest.raises(InputError, match="'fast', expected 'gpu' or 'cpu'"):
        IsaacGymCfg().placed(gpu)


@pytest.mark.parametrize(
    ("make_tarball", "python", "message"),
    [
        (lambda path: None, "python3.8", "no such file, expected NVIDIA's"),
        (lambda path: path.write_bytes(b"not a tar"), "python3.8", "not a tar archive"),
        (lambda path: write_tar(path, "isaacgym/README"), "python3.8", "has no isaacgym/python/setup.py"),
        (
            lambda path: write_tar(path, "isaacgym/python/setup.py"),
            "/nowhere/python3.8",
            "python3.8 not found",
        ),
        (
            lambda path: write_tar(path, "isaacgym/python/setup.py"),
            sys.executable,
            "Isaac Gym is for 3.6 to 3.8",
        ),
    ],
    ids=["no file", "no archive", "another archive", "no python", "another python"],
)
def test_make_isaacgym_says_what_is_wrong_in_one_line(tmp_path, make_tarball, python, message):
    tarball = tmp_path / "package.tar.gz"
    make_tarball(tarball)
    result = run_script(str(tarball), str(tmp_path / "env"), python=python)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "env").exists()


def test_make_isaacgym_without_a_tarball():
    result = run_script()
    assert result.returncode == 2
    assert "accept NVIDIA's licence" in result.stderr
    assert "ISAACGYM_TARBALL=" in result.stderr


def write_tar(path, member):
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(member))


def run_script(*arguments, python="python3.8"):
    script = SOURCES.parents[3] / "docker" / "isaacgym.sh"
    env = {**os.environ, "ISAACGYM_PYTHON": python}
    return subprocess.run([str(script), *arguments], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ON_PYTHON_3_8)
def test_what_runs_under_python_3_8_parses_there_and_imports_nothing_of_ours(name):
    tree = ast.parse((SOURCES / name).read_text(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names)
    assert others <= {
        "isaacgym_worker.py": {"numpy", "torch", "isaacgym"},
        "isaacgym_actuators.py": {"numpy", "torch"},
    }.get(name, {"numpy"})
    # What parses may still fail when it runs: built-in types with brackets and unions of types came later.
    annotations = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)]
    assert not [n for n in annotations if isinstance(n.right, ast.Constant) and n.right.value is None]
    subscripts = [
        n.value.id for n in ast.walk(tree) if isinstance(n, ast.Subscript) and isinstance(n.value, ast.Name)
    ]
    assert not {"list", "dict", "tuple", "set", "type"} & set(subscripts)
    methods = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert not {"removeprefix", "removesuffix"} & methods
    strict = [k for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg == "strict"]
    assert not strict


@pytest.mark.slow
def test_the_worker_fits_the_types_of_the_stubs():
    pytest.importorskip("pyright")
    files = [str(SOURCES / name) for name in ON_PYTHON_3_8]
    result = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *files], cwd=SOURCES.parents[3], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
