"""MuJoCo Warp's backend without its physics: kernels, tables, refusals. What steps is in test_mjwarp_physics.py."""

import sys
from dataclasses import replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_scene.heightfield import Heightfield
from gaussgym_sim.actuation.actuator_cfg import ActuatorCfg
from gaussgym_sim.actuation.actuator_net import ACTIVATIONS, ActuatorNet, DenseLayer, LstmLayer
from gaussgym_sim.actuation.actuators import Actuators
from gaussgym_sim.ground.boxes import Boxes
from gaussgym_sim.ground.terrain import Ground, add_ground, ground_of
from gaussgym_sim.robot import get_robot
from gaussgym_sim.testing import flat_scene, wavy_scene
from gaussgym_sim.vecsim import make_sim

wp = pytest.importorskip("warp")
pytest.importorskip("mujoco_warp")

from gaussgym_sim.engines import mjwarp_bounce, mjwarp_ground, mjwarp_net, mjwarp_reset, mjwarp_sim  # noqa: E402
from gaussgym_sim.engines import mjwarp_kernels as kernels  # noqa: E402
from gaussgym_sim.engines.mjwarp_ground import FAR_BELOW_M, WorldGrounds, add_ground_geoms  # noqa: E402
from gaussgym_sim.engines.mjwarp_overflow import WATCHED, OverflowType, Room  # noqa: E402

CPU = torch.device("cpu")


@pytest.mark.parametrize("arch", [80, 120, *(pytest.param(n, marks=pytest.mark.slow) for n in (86, 89, 90))])
def test_kernels_compile_for_gpus(arch, tmp_path):
    """NVRTC comes with Warp and needs no driver, so that a machine without a GPU sees what would not compile for one."""
    for module, launched in (
        (kernels, kernels.KERNELS),
        (mjwarp_net, mjwarp_net.KERNELS),
        (mjwarp_bounce, mjwarp_bounce.KERNELS),
        (mjwarp_reset, [mjwarp_reset.restart]),
    ):
        folder = tmp_path / module.__name__
        wp.compile_aot_module(module.__name__, arch=arch, module_dir=folder, use_ptx=True)
        (ptx,) = folder.glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        for kernel in launched:
            assert f".entry {kernel.key}_" in text


def drive_twice(cfg, *, calls, substeps, reset_at):
    """Torques [calls * substeps, E, J] of the kernel and of `Actuators`, for the same random motion, targets and parameters."""
    robot, e, depth = replace(get_robot("go1"), actuator=cfg), 5, 13
    j, rng = robot.num_joints, np.random.default_rng(4)
    twin = Actuators(robot, e, max_delay=depth - 1)
    twin.delay[:] = [0, 1, 3, 7, 12]
    twin.strength[:], twin.offset[:] = rng.uniform(0.7, 1.2, (e, j)), rng.uniform(-0.1, 0.1, (e, j))
    columns = (np.arange(7, 19), np.arange(6, 18), np.arange(j)[::-1].copy())
    gains = kernels.Gains()
    for name in ("kp", "kd", "strength", "offset"):
        setattr(gains, name, wp.array(getattr(twin, name), dtype=float, device="cpu"))
    gains.delay = wp.array(twin.delay, dtype=int, device="cpu")
    gains.dc = int(cfg.kind == "dc")
    numbers = {
        "limit": robot.torque_limit_nm,
        "stall": cfg.stall_torque_nm or (1.0,) * j,
        "no_load": cfg.no_load_speed_rad_s or (1.0,) * j,
    }
    for name, values in numbers.items():
        setattr(gains, name, wp.array(np.array(values), dtype=float, device="cpu"))
    held = torch.tensor(robot.default_joint_pos).repeat(depth, e, 1)
    clock, target = torch.zeros(1, dtype=torch.int32), torch.zeros(e, j)
    torque, ctrl = torch.zeros(e, j), torch.zeros(e, j)
    cols = wp.array(np.stack(columns).astype(np.int32), dtype=int, device="cpu")
    got, want = [], []
    for call in range(calls):
        if call == reset_at:
            pose = rng.uniform(-1, 1, (2, j)).astype(np.float32)
            twin.reset(np.array([1, 4]), pose)
            held[:, [1, 4]] = torch.from_numpy(pose)
        target[:] = torch.from_numpy(rng.uniform(-1, 1, (e, j)))
        twin.begin(target.numpy(), substeps)
        for substep in range(substeps):
            qpos = rng.uniform(-1, 1, (e, 19)).astype(np.float32)
            qvel = rng.uniform(-25, 25, (e, 18)).astype(np.float32)
            out = np.zeros((e, j))
            twin.apply(substep, np.arange(e), qpos.astype(float), qvel.astype(float), columns, out)
            arrays = [wp.array(x, dtype=float, device="cpu") for x in (qpos, qvel)]
            states = [wp.from_torch(x) for x in (target, clock)]
            outputs = [wp.from_torch(x) for x in (held, torque, ctrl)]
            wp.launch(
                kernels.drive,
                dim=(e, j),
                inputs=[*arrays, cols, gains, *states, substep, *outputs],
                device="cpu",
            )
            got.append(torque.numpy().copy())
            want.append(twin.torque.copy())
            np.testing.assert_array_equal(ctrl.numpy()[:, columns[2]], torque.numpy())
        wp.launch(kernels.advance_clock, dim=1, inputs=[states[1], substeps, depth], device="cpu")
    return np.array(got), np.array(want)


@pytest.mark.parametrize("kind", ["pd", "dc"])
def test_kernel_equals_actuators(kind):
    """Delays of 0 to 60 ms across control steps, resets, strength, offset and the clips."""
    motor = {} if kind == "pd" else {"stall_torque_nm": (30.0,) * 12, "no_load_speed_rad_s": (20.0,) * 12}
    got, want = drive_twice(ActuatorCfg(kind, **motor), calls=12, substeps=4, reset_at=6)
    assert np.abs(want).max() > 20.0
    np.testing.assert_allclose(got, want, atol=2e-5)


def random_net(kind, rng):
    def weights(*shape):
        return rng.normal(scale=0.5, size=shape).astype(np.float32)

    history, lstm, width = (0, 2, 5), (), 6
    if kind == "lstm":
        history, width = (0,), 8
        lstm = tuple(LstmLayer(weights(32, n), weights(32, 8), weights(32)) for n in (2, 8))
    sizes = (width, 7, 5, 1)
    layers = tuple(DenseLayer(weights(b, a), weights(b)) for a, b in pairwise(sizes))
    return ActuatorNet(history, lstm, layers, kind if kind in ACTIVATIONS else "elu")


@pytest.mark.parametrize("kind", ["lstm", *ACTIVATIONS])
def test_network_kernels_equal_the_networks_of_the_cpu(kind):
    """Over ten substeps, so that the memory matters, with a reset of some robots in between."""
    rng, e, j = np.random.default_rng(3), 4, 3
    net = random_net(kind, rng)
    twin, everyone = net.start(e, j), np.arange(e)
    with wp.ScopedDevice("cpu"):
        ours = mjwarp_net.NetLaunches(net, e, j, CPU)
    for substep in range(10):
        if substep == 6:
            twin.reset(np.array([1, 3]))
            ours.reset(torch.tensor([1, 3]))
        error, velocity = rng.normal(size=(2, e, j)).astype(np.float32)
        ours.error[:], ours.velocity[:] = torch.from_numpy(error), torch.from_numpy(velocity)
        with wp.ScopedDevice("cpu"):
            ours.launch()
        want = twin.torque(everyone, error, velocity)
        np.testing.assert_allclose(ours.torque.numpy(), want, atol=3e-6, rtol=1e-5)
    for name, memory in twin.state_dict().items():
        np.testing.assert_allclose(ours.memory[name].numpy(), memory, atol=3e-6)


def report_inputs(qpos, qvel, parked):
    e, feet = len(qpos), np.array([[0], [3], [6], [10]], dtype=np.int32)
    robots, held, out = kernels.Robots(), kernels.Parked(), kernels.Buffers()
    robots.columns = wp.array(np.array([[7, 8], [6, 7], [0, 1]], dtype=np.int32), dtype=int, device="cpu")
    robots.feet, robots.trunk = (
        wp.array(feet, dtype=int, device="cpu"),
        wp.array([11, 12], dtype=int, device="cpu"),
    )
    shapes = {
        "root_pos_w": (3,), "root_quat_wxyz": (4,), "root_lin_vel_w": (3,), "root_ang_vel_b": (3,), "joint_pos": (2,),
        "joint_vel": (2,), "joint_torque": (2,), "foot_pos_w": (1, 3), "foot_vel_w": (1, 3), "foot_force_w": (1, 3),
    }  # fmt: skip
    buffers = {name: torch.full((e, *shape), -7.0) for name, shape in shapes.items()}
    flags = {"foot_contact": (1,), "thigh_contact": (1,), "trunk_contact": (), "invalid": ()}
    buffers |= {name: torch.zeros(e, *shape, dtype=torch.bool) for name, shape in flags.items()}
    for name, tensor in buffers.items():
        setattr(out, name, wp.from_torch(tensor))
    held.mask = wp.from_torch(torch.tensor(parked))
    held.qpos = wp.from_torch(torch.full((e, 9), 0.5))
    held.qvel = wp.from_torch(torch.full((e, 8), 0.25))
    return robots, held, out, buffers


def test_report_fills_buffers_and_finds_what_is_no_state():
    qpos = torch.arange(9.0).repeat(4, 1) + 10 * torch.arange(4.0)[:, None]
    qvel = 0.1 * torch.arange(8.0).repeat(4, 1)
    qpos[1, 8], qvel[2, 0] = float("nan"), 3e12
    sensors = torch.arange(13.0).repeat(4, 1)
    sensors[0, 10:12] = 0.0
    sensors[0, 12] = 0.0
    torque = torch.tensor([[1.0, 2.0]]).repeat(4, 1)
    robots, held, out, buffers = report_inputs(qpos, qvel, [False, False, False, True])
    count = torch.zeros(1, dtype=torch.int64)
    arrays = [wp.from_torch(x) for x in (qpos, qvel, sensors, torque)]
    wp.launch(kernels.report, dim=4, inputs=[*arrays, robots, held, out, wp.from_torch(count)], device="cpu")
    assert buffers["invalid"].tolist() == [False, True, True, False]
    assert int(count) == 2
    assert all(torch.isfinite(t.float()).all() for t in buffers.values())
    assert buffers["root_pos_w"][0].tolist() == [0.0, 1.0, 2.0]
    assert buffers["root_quat_wxyz"].tolist()[:2] == [[3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 0.0, 0.0]]
    assert buffers["joint_pos"][1].tolist() == [17.0, 0.0]
    assert buffers["root_lin_vel_w"][2, 0] == 0.0
    assert buffers["foot_vel_w"][0, 0].tolist() == [3.0, 4.0, 5.0]
    assert buffers["foot_force_w"][0, 0].tolist() == [-7.0, -8.0, -9.0]
    assert buffers["foot_contact"].tolist() == [[True]] * 3 + [[False]]
    assert buffers["thigh_contact"].tolist() == [[False], [True], [True], [False]]
    assert buffers["trunk_contact"].tolist() == [False, True, True, False]
    assert buffers["root_pos_w"][3].tolist() == [-7.0] * 3, "a parked robot's buffers stay"
    assert qpos[3].tolist() == [0.5] * 9
    assert qvel[3].tolist() == [0.25] * 8


CROOKED = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <body name="base">
      <freejoint/>
      <geom size="0.1"/>
      <body pos="0.2 0.1 -0.05" euler="0.3 -0.4 0.5">
        <joint name="a" axis="1 2 -1" pos="0.03 -0.02 0.05" ref="0.2"/>
        <joint name="b" type="slide" axis="0 1 1" ref="-0.1"/>
        <geom size="0.05"/>
        <body pos="0 0.05 -0.2" euler="0 0.7 0">
          <geom size="0.05"/>
          <body pos="0.1 0 -0.1" euler="-0.2 0 0.1">
            <joint name="c" axis="0 1 0" pos="0 0 0.07"/>
            <geom name="long" size="0.02" pos="0.01 0.02 -0.2"/>
          </body>
        </body>
      </body>
      <body pos="-0.2 0 0"><joint name="d" axis="1 0 0"/><geom name="short" size="0.02" pos="0 0.1 -0.1"/></body>
    </body>
  </worldbody>
</mujoco>
"""


def test_restarted_feet_are_where_mujoco_has_them():
    """Hinges off the body's origin, a slide, a fixed body, reference positions, legs of unlike length; [R] of [E] robots."""
    model = mujoco.MjModel.from_xml_string(CROOKED)
    e, rng = 3, np.random.default_rng(7)
    joints = [model.joint(name) for name in "abcd"]
    columns = np.array(
        [[x.qposadr[0] for x in joints], [x.dofadr[0] for x in joints], range(4)], dtype=np.int32
    )
    robots, parked, out, start = kernels.Robots(), kernels.Parked(), kernels.Buffers(), mjwarp_reset.Start()
    state = mjwarp_sim._zero_state(e, 4, 2, CPU)
    quat = rng.normal(size=(2, 4))
    given = {
        "root_pos_w": rng.normal(size=(2, 3)), "root_quat_wxyz": quat / np.linalg.norm(quat, axis=1, keepdims=True),
        "root_lin_vel_w": rng.normal(size=(2, 3)), "root_ang_vel_b": rng.normal(size=(2, 3)),
        "joint_pos": rng.normal(size=(2, 4)), "joint_vel": rng.normal(size=(2, 4)),
    }  # fmt: skip
    with wp.ScopedDevice("cpu"):
        robots.columns = wp.array(columns, dtype=int)
        legs = mjwarp_reset.legs_of(model, SimpleNamespace(foot_geoms=("long", "short")))
        for name, tensor in vars(state).items():
            setattr(out, name, wp.from_torch(tensor))
        parked.qpos, parked.qvel = wp.zeros((e, model.nq)), wp.zeros((e, model.nv))
        start.env_ids = wp.from_torch(torch.tensor([0, 2]))
        for name, values in given.items():
            setattr(start, name, wp.array(values, dtype=float))
        qpos, qvel, warm = wp.zeros((e, model.nq)), wp.zeros((e, model.nv)), wp.ones((e, model.nv))
        wrench = wp.ones((e, model.nbody), dtype=wp.spatial_vector)
        held, torque = wp.zeros((13, e, 4)), wp.ones((e, 4))
        inputs = [start, robots, legs, qpos, qvel, warm, wrench, held, torque, parked, out]
        wp.launch(mjwarp_reset.restart, dim=2, inputs=inputs)
    data, velocity = mujoco.MjData(model), np.zeros(6)
    for r, env in enumerate((0, 2)):
        data.qpos[:], data.qvel[:] = qpos.numpy()[env], qvel.numpy()[env]
        np.testing.assert_allclose(data.qpos[columns[0]], given["joint_pos"][r], rtol=1e-6)
        np.testing.assert_allclose(
            data.qvel[:6], [*given["root_lin_vel_w"][r], *given["root_ang_vel_b"][r]], rtol=1e-6
        )
        mujoco.mj_forward(model, data)
        for leg, name in enumerate(("long", "short")):
            geom = model.geom(name).id
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_GEOM, geom, velocity, 0)
            np.testing.assert_allclose(state.foot_pos_w[env, leg].numpy(), data.geom_xpos[geom], atol=2e-6)
            np.testing.assert_allclose(state.foot_vel_w[env, leg].numpy(), velocity[3:], atol=5e-6)
        assert not warm.numpy()[env].any()
        assert not wrench.numpy()[env].any()
        np.testing.assert_allclose(held.numpy()[:, env], np.tile(given["joint_pos"][r], (13, 1)), rtol=1e-6)
    assert warm.numpy()[1].all(), "others stay"
    assert not state.foot_pos_w[1].any()


def test_overflow_is_gathered_and_cleared():
    flags = torch.tensor([0, int(OverflowType.NEFC), int(OverflowType.ITERATIONS), int(OverflowType.CCD)])
    flags = flags.to(torch.int32)
    found = torch.zeros(2, dtype=torch.int32)
    inputs = [wp.from_torch(flags), WATCHED, wp.from_torch(found)]
    wp.launch(kernels.collect_overflow, dim=4, inputs=inputs, device="cpu")
    assert found.tolist() == [int(OverflowType.NEFC | OverflowType.CCD), 2]
    assert flags.tolist() == [0] * 4


def test_room_grows_where_it_was_short():
    room = Room(contacts=70, convex=26, constraints=160)
    assert room.grown(int(OverflowType.NEFC)) == replace(room, constraints=320)
    assert room.grown(int(OverflowType.NARROWPHASE)) == replace(room, contacts=140)
    assert room.grown(int(OverflowType.CCD | OverflowType.CONTACT_MATCH)) == replace(
        room, convex=52, matches=32
    )
    assert "160 constraints an environment (constraints_per_env)" in room.describe(int(OverflowType.NEFC))
    assert room.grown(int(OverflowType.HFIELD)) == room


def boxes_scene_grounds():
    boxes = Boxes(
        np.array([[1.0, 2.0, 0.5], [-1.0, 0.0, 0.25]]), np.array([[0.1, 0.2, 0.5], [0.3, 0.3, 0.25]])
    )
    wavy = ground_of(wavy_scene())
    return [ground_of(flat_scene(z_m=-0.5)), replace(wavy, boxes=boxes)]


def test_worlds_have_the_geoms_that_other_engines_have():
    """Against `add_ground`: what one scene's MuJoCo model holds is what its worlds get, and nothing else is near."""
    grounds = boxes_scene_grounds()
    table = WorldGrounds(grounds, 3, CPU)
    spec = mujoco.MjSpec()
    add_ground_geoms(spec, 3)
    model = spec.compile()
    world = SimpleNamespace()
    with wp.ScopedDevice("cpu"):
        table.bind(world, model)
        world.geom_size = wp.zeros((4, model.ngeom), dtype=wp.vec3)
        world.geom_dataid = wp.zeros((4, model.ngeom), dtype=int)
        data = SimpleNamespace(geom_xpos=wp.zeros((4, model.ngeom), dtype=wp.vec3))
    table.assign(world, data, torch.tensor([0, 3]), torch.tensor([0, 1]))
    place = data.geom_xpos.numpy()
    assert place[0, 0].tolist() == [0.0, 0.0, -0.5]
    assert (place[0, 1:, 2] == FAR_BELOW_M).all()
    assert (place[1:3] == 0).all(), "others stay"
    for slot, env in ((0, 0), (1, 3)):
        single = mujoco.MjSpec()
        add_ground(single, grounds[slot])
        want = single.compile()
        near = place[env][place[env, :, 2] > FAR_BELOW_M]
        np.testing.assert_allclose(near, want.geom_pos, atol=1e-6)
        if slot == 1:
            np.testing.assert_allclose(world.geom_size.numpy()[env, 2:4], want.geom_size[1:], atol=1e-7)
            field = int(world.geom_dataid.numpy()[env, 1])
            np.testing.assert_allclose(world.hfield_size.numpy()[field], want.hfield_size[0], rtol=1e-6)
            rows, cols = world.hfield_nrow.numpy()[field], world.hfield_ncol.numpy()[field]
            assert (rows, cols) == (want.hfield_nrow[0], want.hfield_ncol[0])
            begin = world.hfield_adr.numpy()[field]
            data_here = world.hfield_data.numpy()[begin : begin + rows * cols]
            np.testing.assert_allclose(data_here, want.hfield_data, atol=1e-6)


def test_a_larger_grid_moves_the_others_heights_along():
    grounds = boxes_scene_grounds()
    table = WorldGrounds(grounds, 2, CPU)
    before = table._heights[1, : grounds[1].heightfield.height_m.size].clone()
    rng = np.random.default_rng(0)
    heights = rng.uniform(0, 1, (90, 200)).astype(np.float32)
    assert heights.size > before.numel()
    large = Ground(Heightfield(heights, 0.1, np.zeros(2), np.ones_like(heights, bool)), Boxes.none())
    assert table.replace(0, large)
    assert torch.equal(table._heights[1, : before.numel()], before)
    assert not table.replace(0, grounds[0]), "a smaller one fits"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "meta"}, "runs on 'cuda' or 'cpu', not on 'meta'"),
        ({"terrain": "mesh"}, "no exact triangles"),
        (
            {"robot": replace(get_robot("go1"), actuator=ActuatorCfg("net", net=Path("x.npz")))},
            "x.npz: no such file",
        ),
    ],
)
def test_refusals(arguments, message):
    given = {"robot": "go1", "device": "cpu", "terrain": "boxes"} | arguments
    with pytest.raises(InputError, match=message):
        make_sim("mjwarp", given.pop("robot"), [flat_scene()], 1, **given)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_no_silent_cpu():
    with pytest.raises(InputError, match=r"no CUDA GPU .* use device='cpu' .*, or the backend 'mujoco'"):
        make_sim("mjwarp", "go1", [flat_scene()], 1, device="cuda")


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_warp", None)
    monkeypatch.delitem(sys.modules, mjwarp_sim.__name__)
    with pytest.raises(InputError, match=r"pip install 'gaussgym-sim\[gpu\]'"):
        import_module(mjwarp_sim.__name__)


def test_too_many_boxes(monkeypatch):
    monkeypatch.setattr(mjwarp_ground, "MAX_BOXES", 1)
    monkeypatch.setattr(mjwarp_ground, "ground_of", lambda *_: boxes_scene_grounds()[1])
    with pytest.raises(
        InputError, match="has 2 boxes, expected at most 1 on backend 'mjwarp'; use terrain='heightfield'"
    ):
        make_sim("mjwarp", "go1", [wavy_scene()], 1)
