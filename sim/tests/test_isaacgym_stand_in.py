"""The stand-in for Isaac Gym raises where a caller goes wrong: otherwise the worker's tests would prove nothing."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussgym_sim.engines.isaacgym_sim import ground_triangles
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.grounds import flat_scene, heights_scene
from gaussgym_sim.robot import get_robot
from gaussgym_sim.robot_import.urdf import urdf_of

STAND_IN = Path(__file__).with_name("isaacgym_stand_in")


@pytest.fixture(scope="module")
def api():
    os.environ["ISAACGYM_STAND_IN_AFTER_TORCH"] = "1"
    sys.path.insert(0, str(STAND_IN))
    try:
        yield importlib.import_module("isaacgym.gymapi"), importlib.import_module("isaacgym.gymtorch")
    finally:
        sys.path.remove(str(STAND_IN))
        del os.environ["ISAACGYM_STAND_IN_AFTER_TORCH"]
        for name in [n for n in sys.modules if n == "isaacgym" or n.startswith("isaacgym.")]:
            del sys.modules[name]


class Session:
    """A simulation made by the book, step by step, so that a test can leave the book at any place."""

    def __init__(self, api, tmp_path, *, envs=2, until="acquired"):
        self.api, self.torch = api
        self.gym = self.api.acquire_gym()
        self.params = self.api.SimParams()
        self.params.dt, self.params.substeps, self.params.up_axis = 0.005, 1, self.api.UP_AXIS_Z
        self.params.gravity = self.api.Vec3(0.0, 0.0, -9.81)
        self.sim = self.gym.create_sim(0, -1, self.api.SIM_PHYSX, self.params)
        self.vertices, self.triangles = ground_triangles(ground_of(flat_scene()))
        self.mesh = self.api.TriangleMeshParams()
        self.mesh.nb_vertices, self.mesh.nb_triangles = len(self.vertices), len(self.triangles)
        (tmp_path / "robot.urdf").write_text(urdf_of(get_robot("go1")))
        self.folder, self.count = str(tmp_path), envs
        for name, action in (
            ("terrain", self.terrain),
            ("actors", self.actors),
            ("prepared", self.prepare),
            ("acquired", self.acquire),
        ):
            action()
            if name == until:
                break

    def terrain(self):
        self.gym.add_triangle_mesh(self.sim, self.vertices.ravel(), self.triangles.ravel(), self.mesh)

    def actors(self, *, same_group=False):
        options = self.api.AssetOptions()
        options.default_dof_drive_mode = 3
        self.asset = self.gym.load_asset(self.sim, self.folder, "robot.urdf", options)
        self.envs = []
        for i in range(self.count):
            zero = self.api.Vec3(0.0, 0.0, 0.0)
            env = self.gym.create_env(self.sim, zero, zero, 1)
            pose = self.api.Transform()
            pose.p = self.api.Vec3(0.0, 0.0, 1.0)
            self.gym.create_actor(env, self.asset, pose, "robot", 0 if same_group else i, 1, 0)
            self.envs.append(env)

    def prepare(self):
        self.gym.prepare_sim(self.sim)

    def acquire(self):
        self.root = self.torch.wrap_tensor(self.gym.acquire_actor_root_state_tensor(self.sim))
        self.dof = self.torch.wrap_tensor(self.gym.acquire_dof_state_tensor(self.sim))
        self.bodies = self.torch.wrap_tensor(self.gym.acquire_rigid_body_state_tensor(self.sim))
        self.gym.refresh_actor_root_state_tensor(self.sim)
        self.gym.refresh_dof_state_tensor(self.sim)

    def set_root(self, tensor=None, ids=None, count=None):
        ids = torch.arange(self.count, dtype=torch.int32) if ids is None else ids
        unwrap = self.torch.unwrap_tensor
        tensor = self.root if tensor is None else tensor
        self.gym.set_actor_root_state_tensor_indexed(
            self.sim, unwrap(tensor), unwrap(ids), len(ids) if count is None else count
        )

    def step(self):
        self.gym.simulate(self.sim)
        self.gym.fetch_results(self.sim, True)


def test_by_the_book(api, tmp_path):
    """States go in and come out; nothing is readable before a refresh; the order of bodies is not the URDF's."""
    s = Session(api, tmp_path)
    assert torch.isnan(s.bodies).all()
    s.root[1, :7] = torch.tensor([0.5, 0.2, 2.0, 0.5, -0.5, 0.5, 0.5])
    robot, names = get_robot("go1"), s.gym.get_asset_dof_names(s.asset)
    pose = dict(zip(robot.joint_names, robot.default_joint_pos, strict=True))
    s.dof.view(2, 12, 2)[:, :, 0] = torch.tensor([pose[name] for name in names])
    s.set_root()
    ids = s.torch.unwrap_tensor(torch.arange(2, dtype=torch.int32))
    s.gym.set_dof_state_tensor_indexed(s.sim, s.torch.unwrap_tensor(s.dof), ids, 2)
    s.step()
    assert float(s.root[1, 2]) == 2.0  # as it was written, not as it is
    s.gym.refresh_actor_root_state_tensor(s.sim)
    np.testing.assert_allclose(
        s.root[1, :7], [0.5, 0.2, 2.0 - 9.81 * 0.005**2, 0.5, -0.5, 0.5, 0.5], atol=1e-5
    )
    assert sorted(names) == sorted(get_robot("go1").joint_names)
    assert tuple(names) != get_robot("go1").joint_names
    s.gym.destroy_sim(s.sim)


def test_torch_must_not_come_first():
    env = {k: v for k, v in os.environ.items() if k != "ISAACGYM_STAND_IN_AFTER_TORCH"} | {
        "PYTHONPATH": str(STAND_IN)
    }
    code = "import torch; import isaacgym"
    result = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert "PyTorch was imported before" in result.stderr


BEFORE = {
    "acquire before prepare": ("actors", lambda s: s.acquire(), "prepare_sim comes before acquire"),
    "simulate before prepare": ("actors", lambda s: s.gym.simulate(s.sim), "prepare_sim comes before simulate"),
    "terrain after actors": ("actors", lambda s: s.terrain(), "terrain comes before environments"),
    "actors after prepare": ("prepared", lambda s: s.actors(), "nothing is added after prepare_sim"),
    "refresh before acquire": (
        "prepared", lambda s: s.gym.refresh_dof_state_tensor(s.sim), "refresh_dof_state_tensor comes after acquire"),
    "one collision group": ("terrain", lambda s: s.actors(same_group=True), "give each a group"),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE)
def test_order_of_calls(api, tmp_path, name):
    until, action, message = BEFORE[name]
    session = Session(api, tmp_path, until=until)
    with pytest.raises(RuntimeError, match=message):
        action(session)


def int64(s):
    s.set_root(ids=torch.arange(2))


def part_of_the_buffer(s):
    s.set_root(tensor=s.root[:1].clone())


def other_type(s):
    s.set_root(tensor=s.root.double())


def not_contiguous(s):
    s.torch.unwrap_tensor(torch.zeros(13, 2).T)


def bare_tensor(s):
    s.gym.set_dof_actuation_force_tensor(s.sim, torch.zeros(2, 12))


def twice_before_a_step(s):
    s.set_root()
    s.set_root()


def wxyz(s):
    """Only an unusual orientation tells the orders apart, but no orientation has another length."""
    s.root[:, 3:7] = torch.tensor([0.7, 0.2, -0.5, 0.9])
    s.set_root()
    s.step()


def no_fetch(s):
    s.gym.simulate(s.sim)
    s.gym.refresh_dof_state_tensor(s.sim)


def no_such_actor(s):
    s.set_root(ids=torch.tensor([2], dtype=torch.int32))


def an_actor_twice(s):
    s.set_root(ids=torch.tensor([1, 1], dtype=torch.int32))


def other_count(s):
    s.set_root(count=1)


def refresh_over_a_set_state(s):
    s.set_root()
    s.gym.refresh_actor_root_state_tensor(s.sim)


def after_the_end(s):
    s.gym.destroy_sim(s.sim)
    s.gym.simulate(s.sim)


def efforts_of_one(s):
    s.gym.set_dof_actuation_force_tensor(s.sim, s.torch.unwrap_tensor(torch.zeros(12)))


def forces_of_one_robot(s):
    s.gym.apply_rigid_body_force_tensors(
        s.sim, s.torch.unwrap_tensor(torch.zeros(17, 3)), None, s.api.ENV_SPACE
    )


def drive_with_effort(s):
    props = s.gym.get_actor_dof_properties(s.envs[0], 0)
    props["damping"].fill(0.5)
    s.gym.set_actor_dof_properties(s.envs[0], 0, props)


def mass_without_its_inverse(s):
    props = s.gym.get_actor_rigid_body_properties(s.envs[0], 0)
    props[0].mass = 9.0
    s.gym.set_actor_rigid_body_properties(s.envs[0], 0, props, False)


def restitution_above_1(s):
    props = s.gym.get_actor_rigid_shape_properties(s.envs[0], 0)
    props[0].restitution = 1.5
    s.gym.set_actor_rigid_shape_properties(s.envs[0], 0, props)


def fewer_shapes(s):
    s.gym.set_actor_rigid_shape_properties(
        s.envs[0], 0, s.gym.get_actor_rigid_shape_properties(s.envs[0], 0)[1:]
    )


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (int64, RuntimeError, "torch.int64, expected torch.int32"),
        (part_of_the_buffer, RuntimeError, r"expected \(2, 13\)"),
        (other_type, RuntimeError, "torch.float64, expected torch.float32"),
        (not_contiguous, ValueError, "must be contiguous"),
        (bare_tensor, RuntimeError, "unwrap_tensor"),
        (twice_before_a_step, RuntimeError, "twice before a step"),
        (wxyz, RuntimeError, "no unit quaternion"),
        (no_fetch, RuntimeError, "fetch_results comes before"),
        (no_such_actor, RuntimeError, "no actor's"),
        (an_actor_twice, RuntimeError, "each once"),
        (other_count, RuntimeError, r"expected \(1,\)"),
        (refresh_over_a_set_state, RuntimeError, "would undo states"),
        (after_the_end, RuntimeError, "destroyed"),
        (efforts_of_one, RuntimeError, r"expected \(2, 12\)"),
        (forces_of_one_robot, RuntimeError, r"expected \(2, 17, 3\)"),
        (drive_with_effort, RuntimeError, "stiffness and damping 0"),
        (mass_without_its_inverse, RuntimeError, "inverses"),
        (restitution_above_1, RuntimeError, "in 0 to 1"),
        (fewer_shapes, RuntimeError, "shapes, expected"),
    ],
)  # fmt: skip
def test_misuse(api, tmp_path, action, error, message):
    with pytest.raises(error, match=message):
        action(Session(api, tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, t: (v.astype(np.float64).ravel(), t.ravel()), "array of float32"),
        (lambda v, t: (v.ravel(), t.astype(np.int32).ravel()), "array of uint32"),
        (lambda v, t: (v, t.ravel()), "flat, contiguous"),
        (lambda v, t: (v.ravel(), t.ravel()[3:]), "vertices or triangles"),
        (lambda v, t: (v.ravel(), (t + 1).astype(np.uint32).ravel()), "no vertex"),
    ],
)
def test_misuse_of_meshes(api, tmp_path, change, message):
    s = Session(api, tmp_path, until="terrain")
    with pytest.raises(RuntimeError, match=message):
        s.gym.add_triangle_mesh(s.sim, *change(s.vertices, s.triangles), s.mesh)


def test_triangles_that_face_down(api, tmp_path):
    s = Session(api, tmp_path, until="terrain")
    s.sim.meshes.clear()
    s.triangles = np.ascontiguousarray(s.triangles[:, ::-1])
    s.terrain()
    with pytest.raises(RuntimeError, match="face down"):
        s.actors()


def test_types_of_attributes(api):
    gymapi, _ = api
    params = gymapi.SimParams()
    for name, value, error in (
        ("dt", "0.005", TypeError), ("substeps", 1.0, TypeError), ("use_gpu_pipeline", 1, TypeError), ("gravity", (0, 0, -9.81), TypeError),
        ("timestep", 0.005, AttributeError),
    ):  # fmt: skip
        with pytest.raises(error):
            setattr(params, name, value)


def test_a_heightfield_and_boxes_come_back_out_of_their_triangles(api):
    """The stand-in's own ground: a grid is found with its heights, a box with its extent, in their places."""
    import mujoco
    from gaussgym_sim.ground.boxes import Boxes
    from gaussgym_sim.ground.terrain import Ground

    terrain = importlib.import_module("isaacgym._terrain")
    field = ground_of(heights_scene(lambda x, y: 0.2 * x - 0.1 * y)).heightfield
    boxes = Boxes(np.array([[1.0, 0.5, 2.0], [3.0, 1.0, 1.5]]), np.array([[0.5, 0.25, 0.1], [0.2, 0.2, 0.2]]))
    vertices, triangles = ground_triangles(Ground(field, boxes))
    spec = mujoco.MjSpec()
    moved = vertices.astype(np.float64) + [100.0, -50.0, 0.0]
    terrain.add_mesh(spec, terrain.TriangleMesh(moved, triangles.astype(np.int64), 0.0, 0.0))
    model = spec.compile()
    kinds = sorted(mujoco.mjtGeom(k).name for k in model.geom_type)
    assert kinds == ["mjGEOM_BOX", "mjGEOM_BOX", "mjGEOM_HFIELD"]
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    geom = np.zeros(1, np.int32)
    for x, y in ((-3.0, 1.0), (2.0, 2.0), (1.2, 0.6)):
        hit = mujoco.mj_ray(
            model, data, np.array([x + 100, y - 50, 10.0]), np.array([0, 0, -1.0]), None, 1, -1, geom, None
        )
        want = 2.1 if (x, y) == (1.2, 0.6) else 0.2 * x - 0.1 * y
        assert 10.0 - hit == pytest.approx(want, abs=1e-4)
