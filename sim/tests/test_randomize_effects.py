"""What each randomization does to the physics, by the law that it should follow.

Robots in the air feel no gravity in their joints, and an armature or a damping of one joint alone enters its equation of motion as
in that of a single wheel, whatever the rest of the robot does (Schur complement of the mass matrix): with inertia I seen from the
joint, one substep dt of torque tau gives dv = tau dt / (I + a), and damping c takes v to v I / (I + c dt).
"""

import math
from dataclasses import fields, replace

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.engines.contact_law import contact_solref
from gaussgym_sim.engines.mujoco_bounce import FootBounces
from gaussgym_sim.engines.mujoco_model import build_model
from gaussgym_sim.engines.mujoco_sim import MujocoSim
from gaussgym_sim.env import Env, EnvCfg
from gaussgym_sim.frames import gravity_in_base, rotate_inverse
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.presets import PRESETS, randomize_preset
from gaussgym_sim.randomize import _PARAM_OF, Disturbances, RandomizeCfg, Uniform, randomize_physics
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.sensing import SensingCfg
from gaussgym_sim.testing import flat_scene, place, random_walk, stand
from gaussgym_sim.vecsim import PARAMS, SUBSTEP_S, make_sim

CPU = torch.device("cpu")
G = 9.81
THIGH = 1  # the joint that tests move


def uniform(seed=0):
    return Uniform(torch.Generator().manual_seed(seed), CPU)


def robots(*settings, seed=0, **common):
    """A simulator with one env for each dict of settings, in the air, at rest; and the default pose [E, J]."""
    sim = make_sim("mujoco", "go1", [flat_scene()], len(settings))
    u = uniform(seed)
    for env, setting in enumerate(settings):
        randomize_physics(sim, torch.tensor([env]), replace(RandomizeCfg.none(), **(common | setting)), u)
    return sim, place(sim, pos_w=torch.tensor([[0.0, 0.0, 20.0]]).repeat(len(settings), 1))


def twist_one_joint(sim, joints, torque_rad=0.1):
    """Move the target of one joint; gains of the others are at rest, so that only it is driven."""
    target = joints.clone()
    target[:, THIGH] += torque_rad
    sim.step(target, substeps=1)
    return sim.state.joint_vel[:, THIGH].double(), sim.state.joint_torque[:, THIGH].double()


def set_joint_velocity(sim, joints, speed):
    """All robots in the air, one joint turning."""
    e = sim.num_envs
    vel = torch.zeros(e, 12)
    vel[:, THIGH] = speed
    zero = torch.zeros(e, 3)
    sim.reset(
        torch.arange(e), root_pos_w=torch.tensor([[0.0, 0.0, 20.0]]).repeat(e, 1),
        root_quat_wxyz=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(e, 1), root_lin_vel_w=zero, root_ang_vel_b=zero,
        joint_pos=joints, joint_vel=vel,
    )  # fmt: skip


def inertia_of_the_joint(sim, joints):
    """I [E] from one substep of torque, as above."""
    speed, torque = twist_one_joint(sim, joints)
    return torque * SUBSTEP_S / speed


# ---------------------------------------------------------------------- motors


def test_position_gain_is_torque_per_radian():
    sim, joints = robots({}, {"gain_factor": (0.5, 0.5)}, {"gain_factor": (2.0, 2.0)})
    _, torque = twist_one_joint(sim, joints, 0.1)
    np.testing.assert_allclose(torque, [3.0, 1.5, 6.0], rtol=1e-5)


def test_velocity_gain_is_torque_per_speed():
    sim, joints = robots({}, {"kd_factor": (0.5, 0.5)}, {"kd_offset": (("thigh", 0.3, 0.3),)})
    set_joint_velocity(sim, joints, 2.0)
    sim.step(joints, substeps=1)
    np.testing.assert_allclose(sim.state.joint_torque[:, THIGH], [-1.4, -0.7, -2.0], rtol=1e-5)
    np.testing.assert_allclose(sim.params["kd"][2], [0.7, 1.0, 0.7] * 4)


def test_an_offset_of_gains_never_makes_them_negative():
    sim, _ = robots({"kd_offset": (("calf", -2.0, -2.0),)})
    assert sim.params["kd"][0].reshape(4, 3)[0].tolist() == pytest.approx([0.7, 0.7, 0.0])
    with pytest.raises(InputError, match="no joint of robot 'go1' has 'ankle' in its name"):
        robots({"kd_offset": (("ankle", 0.0, 1.0),)})


def test_strength_scales_the_torque_not_the_target():
    """Half as strong: half the torque, and the joint still settles at its target."""
    sim, joints = robots({}, {"strength_factor": (0.5, 0.5)})
    _, torque = twist_one_joint(sim, joints, 0.1)
    np.testing.assert_allclose(torque, [3.0, 1.5], rtol=1e-5)
    for _ in range(60):
        sim.step(joints + 0.2)
    np.testing.assert_allclose(sim.state.joint_pos, joints + 0.2, atol=2e-3)


def test_motor_offset_shifts_where_joints_settle():
    sim, joints = robots({"motor_offset_rad": 0.1}, {})
    for _ in range(60):
        sim.step(joints)
    offset = sim.params["offset"]
    assert offset[0].abs().max() > 0.05
    assert (offset[1] == 0).all()
    np.testing.assert_allclose(sim.state.joint_pos - joints, offset, atol=2e-3)


def test_delay_shifts_the_response_by_exactly_so_many_substeps():
    delays = (0, 1, 3, 12)
    sim, joints = robots(*({"delay_s": (d * SUBSTEP_S, d * SUBSTEP_S)} for d in delays))
    torque = []
    for _ in range(40):
        sim.step(joints + 0.2, substeps=1)
        torque.append(sim.state.joint_torque.clone())
    torque = torch.stack(torque)
    for env, delay in enumerate(delays):
        assert torque[:delay, env].abs().max() < 1e-3 if delay else True
        np.testing.assert_allclose(torque[delay:, env], torque[: 40 - delay, 0], atol=1e-3)
    assert torque[0, 0].abs().max() > 4.0


def test_an_encoders_bias_shifts_the_joint_the_other_way():
    """The loop brings the measured angle, q + bias, to the target."""
    scene, bias_rad = flat_scene(), 0.1
    cfg = replace(RandomizeCfg.none(), sensing=SensingCfg(encoder_bias_rad=bias_rad))
    env = Env(
        make_sim("mujoco", "go1", [scene], 3),
        replace(EnvCfg(), randomize=cfg, noisy_observations=False, random_initial_age=False),
    )
    bias = env.sensing.encoder_bias
    assert 0.05 < bias.abs().max() <= bias_rad
    joints = place(env.sim, pos_w=torch.tensor([[0.0, 0.0, 20.0]]).repeat(3, 1))
    for _ in range(60):
        env.sim.step(joints)
    np.testing.assert_allclose(env.sim.state.joint_pos - joints, -bias, atol=2e-3)
    env._refresh()
    measured = env.get_observations()["proprio"][:, 9:21]
    np.testing.assert_allclose(measured, torch.zeros(3, 12), atol=2e-3)


# ---------------------------------------------------------------------- joints


def test_armature_adds_to_the_inertia_of_its_joint():
    sim, joints = robots(*({"armature_kg_m2": (a, a)} for a in (0.005, 0.015, 0.1)))
    # Armature of this joint alone, so that the rest of the robot is the same in all three.
    armature = torch.full((3, 12), 0.005)
    armature[:, THIGH] = torch.tensor([0.005, 0.015, 0.1])
    assert sim.params["armature"][2].tolist() == pytest.approx([0.1] * 12)
    sim.set_params(torch.arange(3), armature=armature)
    inertia = inertia_of_the_joint(sim, joints)
    np.testing.assert_allclose(inertia - inertia[0], [0.0, 0.01, 0.095], rtol=1e-4, atol=1e-7)


def test_damping_slows_a_joint_by_its_law():
    sim, joints = robots({}, {"joint_damping_nm_s": (0.3, 0.3)}, gain_factor=(0.0, 0.0))
    twin, _ = robots({})
    inertia = float(inertia_of_the_joint(twin, joints[:1])[0])
    damping = torch.zeros(2, 12)
    damping[1, THIGH] = 0.3
    assert sim.params["joint_damping"][1].tolist() == pytest.approx([0.3] * 12)
    sim.set_params(torch.arange(2), joint_damping=damping)
    set_joint_velocity(sim, joints, 0.01)
    for n in range(1, 6):
        sim.step(joints, substeps=1)
        expected = 0.01 * (inertia / (inertia + 0.3 * SUBSTEP_S)) ** n
        np.testing.assert_allclose(sim.state.joint_vel[:, THIGH], [0.01, expected], rtol=2e-3)


def test_dry_friction_takes_the_same_speed_every_substep_until_the_joint_stands():
    sim, joints = robots({}, {"joint_friction_nm": (0.2, 0.2)}, gain_factor=(0.0, 0.0))
    twin, _ = robots({})
    inertia = float(inertia_of_the_joint(twin, joints[:1])[0])
    friction = torch.zeros(2, 12)
    friction[1, THIGH] = 0.2
    assert sim.params["joint_friction"][1].tolist() == pytest.approx([0.2] * 12)
    sim.set_params(torch.arange(2), joint_friction=friction)
    set_joint_velocity(sim, joints, 0.2)
    speeds = []
    for _ in range(12):
        sim.step(joints, substeps=1)
        speeds.append(sim.state.joint_vel[:, THIGH].clone())
    speeds = torch.stack(speeds)
    loss = 0.2 * SUBSTEP_S / inertia
    np.testing.assert_allclose(0.2 - speeds[0, 1], loss, rtol=0.05)
    np.testing.assert_allclose(speeds[0, 1] - speeds[1, 1], loss, rtol=0.05)
    assert speeds[-1, 1].abs() < 0.01  # stopped, and not turned back
    assert speeds[:, 1].min() > -0.01
    np.testing.assert_allclose(speeds[-1, 0], 0.2, rtol=0.05)


# ---------------------------------------------------------------------- bodies and contacts


def test_gravity_is_how_fast_robots_fall():
    sim, joints = robots({}, {"gravity_m_s2": 2.0}, {"gravity_m_s2": 2.0})
    sim.step(joints, substeps=20)
    drawn = sim.params["gravity_w"]
    assert (drawn[0] == torch.tensor([0.0, 0.0, -9.81])).all()
    assert (drawn[1:] - drawn[0]).abs().max() > 0.5
    np.testing.assert_allclose(sim.state.root_lin_vel_w, drawn * 20 * SUBSTEP_S, atol=1e-3)


def test_a_heavier_trunk_accelerates_less_under_the_same_push():
    """At the point of the force the robot acts as a mass m, to which the trunk's extra mass adds: 1/dv' - 1/dv = extra / (F dt)."""
    sim, joints = robots({}, {"trunk_mass_factor": (2.0, 2.0)}, gain_factor=(0.0, 0.0))
    ids, force = torch.arange(2), 50.0
    sim.set_params(
        ids, trunk_com_b=torch.zeros(2, 3)
    )  # the force then acts at the base's origin, whose speed is known
    sim.push(ids, torch.tensor([[0.0, force, 0.0]] * 2))
    sim.step(joints, substeps=1)
    inverse = 1.0 / sim.state.root_lin_vel_w[:, 1].double()
    extra = (inverse[1] - inverse[0]) * force * SUBSTEP_S
    assert float(extra) == pytest.approx(5.204, rel=0.02)


def test_heavier_links_press_on_the_ground():
    sim, _ = robots({}, {"link_mass_factor": (1.5, 1.5)}, gain_factor=(4.0, 4.0))
    stand(sim)
    force = sim.state.foot_force_w[..., 2].sum(dim=1)
    links = sim.total_mass_kg - sim.robot.trunk_mass_kg
    np.testing.assert_allclose(force[1] - force[0], 0.5 * links * G, rtol=0.01)


def test_a_shifted_centre_of_mass_moves_load_from_hind_to_front_feet():
    """Statics: the centre of pressure under the feet moves by the trunk's share of the shift."""
    sim, _ = robots({}, {}, gain_factor=(5.0, 5.0))
    com = torch.tensor(sim.robot.trunk_com_b).repeat(2, 1)
    com[1] += torch.tensor([0.05, 0.0, 0.0])
    sim.set_params(torch.arange(2), trunk_com_b=com)
    stand(sim, control_steps=150)
    s = sim.state
    load = s.foot_force_w[..., 2]
    pressure = (load * (s.foot_pos_w[..., 0] - s.root_pos_w[:, :1])).sum(dim=1) / load.sum(dim=1)
    share = sim.robot.trunk_mass_kg / sim.total_mass_kg
    np.testing.assert_allclose(pressure[1] - pressure[0], 0.05 * share, rtol=0.05)


def test_the_drawn_centre_of_mass_lies_in_its_box_of_each_axis():
    sim, _ = robots(*[{"trunk_com_m": (0.1, 0.05, 0.0)}] * 40)
    shift = sim.params["trunk_com_b"] - torch.tensor(sim.robot.trunk_com_b)
    assert shift.abs().amax(dim=0).tolist() == pytest.approx([0.1, 0.05, 0.0], abs=0.01)


def test_friction_is_what_slows_a_sliding_robot():
    """Deceleration mu g."""
    sim, _ = robots(
        {"friction": (0.1, 0.1)}, {"friction": (0.2, 0.2)}, gain_factor=(5.0, 5.0), kd_factor=(4.0, 4.0)
    )
    stand(sim)
    sim.kick(torch.arange(2), torch.tensor([[1.5, 0.0, 0.0]] * 2))
    joints = torch.tensor(sim.robot.default_joint_pos).repeat(2, 1)
    sim.step(joints, substeps=40)  # the legs have swung back
    before = sim.state.root_lin_vel_w[:, 0].clone()
    sim.step(joints, substeps=40)
    slowed = (before - sim.state.root_lin_vel_w[:, 0]) / (40 * SUBSTEP_S)
    np.testing.assert_allclose(slowed, [0.1 * G, 0.2 * G], rtol=0.15)


def test_softer_contacts_let_feet_sink_deeper():
    """A contact's time constant is twice as long: its stiffness is a quarter, and feet sink about four times as deep."""
    sim, _ = robots({}, {"compliance": (1.0, 1.0)}, gain_factor=(5.0, 5.0))
    stand(sim, control_steps=150)
    s = sim.state
    assert s.foot_contact.all()
    depth = (sim.robot.foot_radius_m - s.foot_pos_w[..., 2]).mean(dim=1)
    assert 0 < depth[0] < 0.005
    assert 2.5 < depth[1] / depth[0] < 4.5


def rebound(sim, *, speed=2.0):
    """Share [E] of their speed with which robots, all joints but locked, leave the ground that they hit with their feet."""
    e = sim.num_envs
    ones, ids = torch.ones(e, sim.robot.num_joints), torch.arange(e)
    sim.set_params(ids, kp=0 * ones, kd=0 * ones, armature=1000 * ones)
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, 0.5]]).repeat(e, 1))
    touches = 0.5 - float(sim.state.foot_pos_w[0, :, 2].min()) + sim.robot.foot_radius_m
    above = torch.linspace(0.0, 1.0, e + 1)[1:] * speed * SUBSTEP_S  # at all moments between two substeps
    pos = torch.stack((torch.zeros(e), torch.zeros(e), touches + above), dim=1)
    place(sim, pos_w=pos, lin_vel_w=torch.tensor([[0.0, 0.0, -speed]]).repeat(e, 1))
    best = torch.zeros(e)
    for _ in range(40):
        sim.step(joints, substeps=1)
        over, up = sim.state.root_pos_w[:, 2] - touches, sim.state.root_lin_vel_w[:, 2]
        best = torch.where((over > 0) & (up > 0), torch.maximum(best, up**2 + 2 * G * over), best)
    return (best / (speed**2 + 2 * G * above)).sqrt()


@pytest.mark.parametrize("compliance", [0.0, 1.0])
def test_half_of_the_restitution_comes_back_of_an_impact(compliance):
    """On the mean over phases between two substeps; never more than there was, and more for more."""
    means = []
    for restitution in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        fixed = {"restitution": (restitution,) * 2, "compliance": (compliance,) * 2}
        sim, _ = robots(*[fixed] * 8)
        share = rebound(sim)
        assert share.max() < 0.5 * restitution + 0.2
        means.append(float(share.mean()))
    np.testing.assert_allclose(means, np.linspace(0.0, 0.5, 6), atol=0.1)
    assert np.diff(means).min() > 0.0


def test_a_ball_bounces_by_the_law():
    """The same spring and damper without our simulator: a free body in plain MuJoCo."""
    restitution = torch.tensor([0.2, 0.5, 1.0])
    solref = contact_solref(torch.tensor([[0.01, 1.0]]).double(), torch.zeros(3), restitution)[:, 0]
    for want, (time_constant, ratio) in zip(0.5 * restitution, solref, strict=True):
        model = mujoco.MjModel.from_xml_string(
            '<mujoco><option timestep="0.005" integrator="implicitfast"/><worldbody><geom type="plane" size="0 0 1"/>'
            '<body><freejoint/><geom type="sphere" size="0.05" mass="12" priority="1" '
            f'solref="{float(time_constant)} {float(ratio)}"/></body></worldbody></mujoco>'
        )
        shares = []
        for phase in np.linspace(0.05, 1.0, 20):
            data = mujoco.MjData(model)
            data.qpos[2], data.qvel[2] = 0.05 + 0.01 * phase, -2.0
            best = 0.0
            for _ in range(40):
                mujoco.mj_step(model, data)
                if data.qpos[2] > 0.05 and data.qvel[2] > 0:
                    best = max(best, data.qvel[2] ** 2 + 2 * G * (data.qpos[2] - 0.05))
            shares.append((best / (4.0 + 2 * G * 0.01 * phase)) ** 0.5)
        assert np.mean(shares) == pytest.approx(float(want), abs=0.07)
        assert max(shares) < float(want) + 0.2


@pytest.mark.parametrize("name", ["go1", "anymal_c"])
def test_robots_that_stand_do_not_bounce(name):
    """Feet that bounced as much under load as in an impact would tremble and wander off by up to 0.2 m/s."""
    sim = make_sim("mujoco", name, [flat_scene()], 3)
    sim.set_params(torch.arange(3), restitution=torch.tensor([0.0, 0.7, 1.0]))
    joints = place(sim, pos_w=torch.tensor([[0.0, 0.0, sim.robot.base_height_m + 0.02]]).repeat(3, 1))
    sim.step(joints, substeps=400)
    begin, fastest = sim.state.foot_pos_w.clone(), torch.zeros(3)
    for _ in range(200):
        sim.step(joints, substeps=1)
        assert sim.state.foot_contact.all()
        fastest = torch.maximum(fastest, sim.state.joint_vel.abs().amax(dim=1))
    wandered = (sim.state.foot_pos_w - begin).norm(dim=-1).amax(dim=1)
    np.testing.assert_allclose(wandered[1:], wandered[0], atol=1e-3)
    np.testing.assert_allclose(fastest[1:], fastest[0], atol=0.02)


def test_restitution_of_none_leaves_every_bit():
    sims = [make_sim("mujoco", "go1", [flat_scene()], 4) for _ in range(2)]
    sims[1].set_params(torch.arange(4), restitution=torch.zeros(4), compliance=torch.zeros(4))
    one, other = (random_walk(sim) for sim in sims)
    assert torch.equal(one, other)


def test_a_spring_given_by_its_stiffness():
    """``solref`` (-k, -b): twice as slow is a quarter of k and half of b; restitution takes from b alone."""
    nominal = torch.tensor([[-1000.0, -40.0]])
    soft = contact_solref(nominal, torch.tensor([1.0]), torch.tensor([0.0]))
    assert soft.tolist() == [[[-250.0, -20.0]]]
    arrays = (
        nominal.numpy(),
        np.array([0.0], np.float32),
        np.array([1.0], np.float32),
    )  # the other kind of array
    bouncy = contact_solref(*arrays)[0, 0]
    ratio = math.log(2) / math.hypot(math.pi, math.log(2))
    assert bouncy.tolist() == pytest.approx([-1000.0, -40.0 * ratio])


def test_an_impact_bounces_and_what_follows_does_not():
    """Feet: firm after a bounce of less than 15 ms, bouncing again after as long in the air; a landing is over after 150 ms."""
    firm, bouncing = [0.01, 1.0], [0.04, 0.25]
    feet = FootBounces(np.array([firm, firm]), 1)
    feet.set(np.array([0]), np.array([[firm, firm]]), np.array([[bouncing, bouncing]]))
    solref, seen = np.zeros((1, 3, 2)), []
    touching = [0] * 2 + [1] * 6 + [0] * 2 + [1] * 2 + [0] * 3 + [1] * 31
    for touches in touching:
        feet.apply(np.array([0]), np.array([[9.0, 0.0, touches]]), np.array([1, 2]), solref, np.array([0, 2]))
        assert solref[0, 0].tolist() == bouncing  # the other foot stays in the air
        seen.append(solref[0, 2].tolist() == bouncing)
    assert seen == [True] * 8 + [False] * 2 + [False] * 2 + [False] * 2 + [True] + [True] * 29 + [False] * 2


def test_restitution_beyond_1_is_refused():
    sim = make_sim("mujoco", "go1", [flat_scene()], 2)
    with pytest.raises(InputError, match=r"restitution of 0.5 to 1.5, expected 0 to 1"):
        sim.set_params(torch.arange(2), restitution=torch.tensor([0.5, 1.5]))
    assert sim.params["restitution"].tolist() == [0.0, 0.0]


def test_another_scene_begins_without_bouncing():
    sim = make_sim("mujoco", "go1", [flat_scene()], 2)
    sim.set_params(torch.arange(2), restitution=torch.ones(2))
    sim.set_scene(torch.arange(2), flat_scene(z_m=0.0))
    assert rebound(sim).max() < 0.2


def test_what_a_backend_lacks_is_refused_not_skipped():
    class Rigid(MujocoSim):
        capabilities = MujocoSim.capabilities - {"restitution"}

    cfg = replace(RandomizeCfg.none(), restitution=(0.1, 0.9))
    sim = Rigid(get_robot("go1"), [flat_scene()], 1)
    with pytest.raises(InputError, match="no parameter 'restitution'; it has: kp"):
        sim.set_params(torch.tensor([0]), restitution=torch.zeros(1))
    with pytest.raises(InputError, match="varies restitution, which this physics backend does not have"):
        randomize_physics(sim, torch.tensor([0]), cfg, uniform())
    with pytest.raises(InputError, match="varies restitution"):
        Env(sim, replace(EnvCfg(), randomize=cfg))
    without, lost = cfg.supported_by(sim.capabilities)
    assert lost == ("restitution",)
    assert without == RandomizeCfg.none()


# ---------------------------------------------------------------------- disturbances


def momentum(sim, env):
    """Linear momentum [3] of the whole robot, by MuJoCo's own sums."""
    model = build_model(sim.robot, ground_of(sim.scenes[0], "heightfield"))
    data, s = mujoco.MjData(model), sim.state
    data.qpos[:7] = torch.cat((s.root_pos_w[env], s.root_quat_wxyz[env]))
    data.qvel[:6] = torch.cat((s.root_lin_vel_w[env], s.root_ang_vel_b[env]))
    for name, q, v in zip(sim.robot.joint_names, s.joint_pos[env], s.joint_vel[env], strict=True):
        data.qpos[model.joint(name).qposadr[0]] = q
        data.qvel[model.joint(name).dofadr[0]] = v
    mujoco.mj_forward(model, data)
    mujoco.mj_subtreeVel(model, data)
    base = int(model.jnt_bodyid[0])
    return data.subtree_linvel[base] * model.body_subtreemass[base]


def test_a_push_gives_force_times_time_and_ends():
    """F T = m dv of the whole robot, gravity aside; the force is held for exactly its duration."""
    cfg = replace(
        RandomizeCfg.none(), push_force_n=20.0, push_torque_nm=1.0, push_duration_s=0.2, push_interval_s=0.6
    )
    sim, joints = robots({}, {}, gain_factor=(5.0, 5.0))
    pushes = Disturbances(cfg, 2, control_s=0.02, device=CPU, uniform=uniform(5))
    pushes.start(torch.arange(2))
    active, forces = [], []
    for _ in range(60):
        pushes.apply(sim)
        active.append(pushes.force_w.norm(dim=1) > 0)
        forces.append(pushes.force_w.clone())
        sim.step(joints)
    active, impulse = torch.stack(active), torch.stack(forces).sum(dim=0) * 0.02
    for env in range(2):
        begins = (active[1:, env] & ~active[:-1, env]).nonzero()[:, 0] + 1
        ends = (~active[1:, env] & active[:-1, env]).nonzero()[:, 0] + 1
        assert (begins[1:] - begins[:-1] == 30).all()
        assert ends[ends > begins[0]][0] - begins[0] == 10
        fall = np.array([0.0, 0.0, -G * sim.total_mass_kg * 60 * 0.02])
        np.testing.assert_allclose(momentum(sim, env), impulse[env].numpy() + fall, rtol=1e-3, atol=0.05)
    assert impulse.norm(dim=1).min() > 1.0
    assert not torch.equal(active[:, 0], active[:, 1])  # each at its own time


def test_pushes_have_their_strength_and_a_reset_ends_them():
    cfg = replace(RandomizeCfg.none(), push_force_n=10.0, push_torque_nm=2.0, push_interval_s=8.0)
    calls = []

    class Sim:
        def push(self, ids, force, torque):
            calls.append((ids.clone(), force.clone(), torque.clone()))

    pushes = Disturbances(cfg, 400, control_s=0.02, device=CPU, uniform=uniform())
    pushes.start(torch.arange(400))
    share = []
    for _ in range(800):
        pushes.apply(Sim())
        share.append((pushes.force_w != 0).any(dim=1).float().mean())
    begun = torch.cat([f for _, f, _ in calls])
    turned = torch.cat([t for _, _, t in calls])
    begun, turned = begun[begun.norm(dim=1) > 0], turned[turned.norm(dim=1) > 0]
    assert len(begun) == pytest.approx(800, abs=2)  # 400 envs, 16 s
    assert begun.std(dim=0).tolist() == pytest.approx([10.0] * 3, rel=0.1)
    assert turned.std(dim=0).tolist() == pytest.approx([2.0] * 3, rel=0.1)
    assert float(torch.stack(share[400:]).mean()) == pytest.approx(1 / 8, rel=0.15)
    pushed = (pushes.force_w != 0).any(dim=1).nonzero()[:2, 0]
    pushes.start(pushed)
    assert (pushes.force_w[pushed] == 0).all()
    with pytest.raises(InputError, match="expected an interval longer than the push"):
        Disturbances(replace(cfg, push_interval_s=1.0), 1, control_s=0.02, device=CPU, uniform=uniform())


def test_kicks_change_velocity_and_spin_at_once():
    cfg = replace(RandomizeCfg.none(), kick_m_s=1.5, kick_rad_s=2.0, kick_interval_s=0.02)  # in every step
    sim, _ = robots(*[{}] * 50)
    Disturbances(cfg, 50, control_s=0.02, device=CPU, uniform=uniform()).apply(sim)
    linear, angular = sim.state.root_lin_vel_w, sim.state.root_ang_vel_b
    assert (linear[:, 2] == 0).all()
    assert 1.3 < linear[:, :2].abs().max() <= 1.5
    assert 1.7 < angular.abs().amax(dim=0).min() <= angular.abs().max() <= 2.0


def test_disturbances_go_on_from_a_saved_state():
    cfg = randomize_preset("extreme")
    generator = torch.Generator().manual_seed(2)
    first = Disturbances(cfg, 20, control_s=0.02, device=CPU, uniform=Uniform(generator, CPU))
    sims = [make_sim("mujoco", "go1", [flat_scene()], 20) for _ in range(2)]
    first.start(torch.arange(20))
    for _ in range(100):
        first.apply(sims[0])
    other_generator = torch.Generator()
    other = Disturbances(cfg, 20, control_s=0.02, device=CPU, uniform=Uniform(other_generator, CPU))
    other.load_state_dict(first.state_dict())
    other_generator.set_state(generator.get_state())
    for _ in range(100):
        for each, sim in ((first, sims[0]), (other, sims[1])):
            each.apply(sim)
        assert torch.equal(first.force_w, other.force_w)
    assert (first.force_w != 0).any()


# ---------------------------------------------------------------------- starts and episodes


def started(num_envs=200, **settings):
    cfg = replace(
        EnvCfg(), randomize=replace(RandomizeCfg.none(), **settings), noisy_observations=False, random_initial_age=False
    )  # fmt: skip
    return Env(make_sim("mujoco", "go1", [flat_scene()], num_envs), cfg, seed=1)


def test_starts_vary_within_their_ranges():
    env = started(
        start_joint_rad=0.1, start_joint_vel_rad_s=0.5, start_lin_vel_m_s=0.2, start_ang_vel_rad_s=0.3, start_tilt_rad=0.25
    )  # fmt: skip
    s = env.sim.state
    for values, most in (
        (s.joint_pos - env.default_joint_pos, 0.1), (s.joint_vel, 0.5), (s.root_lin_vel_w, 0.2), (s.root_ang_vel_b, 0.3),
    ):  # fmt: skip
        assert 0.95 * most < values.abs().max() <= most * (1 + 1e-5)
        assert values.std() == pytest.approx(most / 3**0.5, rel=0.1)
    gravity = gravity_in_base(s.root_quat_wxyz)
    assert 0.2 < torch.asin(gravity[:, 0].abs().max()) <= 0.26
    assert 0.2 < torch.asin(gravity[:, 1].abs().max()) <= 0.26
    assert (s.foot_pos_w[..., 2] > 0).all()  # tilted robots do not start in the ground


def test_normal_starts_have_their_standard_deviations():
    env = started(start_normal=True, start_joint_rad=0.05, start_lin_vel_m_s=0.1, start_yaw_rad=0.3)
    s = env.sim.state
    assert (s.joint_pos - env.default_joint_pos).std() == pytest.approx(0.05, rel=0.05)
    assert s.root_lin_vel_w.std() == pytest.approx(0.1, rel=0.1)
    assert (s.joint_pos - env.default_joint_pos).abs().max() > 0.15
    along = torch.where(env.follower.direction > 0, 0.0, torch.pi)
    error = torch.remainder(env.yaw - along + torch.pi, 2 * torch.pi) - torch.pi
    assert error.std() == pytest.approx(0.3, rel=0.15)


def test_every_episode_has_its_own_physics_and_others_keep_theirs():
    env = started(num_envs=6, friction=(0.2, 2.0), trunk_mass_factor=(0.5, 1.5), armature_kg_m2=(0.005, 0.02))
    before = {name: value.clone() for name, value in env.sim.params.items()}
    env._start(torch.tensor([1, 4]))
    for name in ("friction", "trunk_mass_kg", "armature"):
        changed = (env.sim.params[name] != before[name]).reshape(6, -1).any(dim=1)
        assert changed.tolist() == [False, True, False, False, True, False], name


# ---------------------------------------------------------------------- presets


def test_every_parameter_of_the_simulator_can_be_randomized():
    assert set(_PARAM_OF.values()) == set(PARAMS)


def test_extreme_varies_everything():
    extreme, none = randomize_preset("extreme"), RandomizeCfg.none()
    same = {f.name for f in fields(RandomizeCfg) if getattr(extreme, f.name) == getattr(none, f.name)}
    assert same <= {
        "start_normal",
        "push_duration_s",
        "kd_offset",
        "armature_kg_m2",  # in the place of armature_factor
    }  # choices, and what depends on the robot's names
    assert extreme.armature_factor != none.armature_factor


def test_presets_have_the_originals_numbers():
    a1, t1, anymal = (randomize_preset(f"gaussgym_{name}") for name in ("a1", "t1", "anymal_c"))
    assert a1.trunk_mass_factor == (0.6, 1.4)
    assert t1.trunk_mass_factor == anymal.trunk_mass_factor == (0.8, 1.2)
    assert (a1.kick_m_s, a1.kick_rad_s, a1.kick_interval_s) == (1.5, 1.5, 4.0)
    assert (a1.push_force_n, a1.push_torque_nm, a1.push_duration_s, a1.push_interval_s) == (
        10.0,
        2.0,
        1.0,
        8.0,
    )
    assert t1.joint_friction_nm == (0.0, 2.0)
    assert anymal.kd_factor == (0.95, 1.05)
    assert a1.camera_clock.latency_s == (0.12, 0.30)
    with pytest.raises(
        InputError, match="unknown preset of randomization 'wild'; choose one of: none, light"
    ):
        randomize_preset("wild")
    assert PRESETS["light"]() == EnvCfg().randomize


def test_the_quick_recipe_leaves_physics_alone():
    env = started(num_envs=2)
    nominal = {name: value.clone() for name, value in env.sim.params.items()}
    randomize_physics(env.sim, torch.arange(2), RandomizeCfg.light(), env.uniform)
    assert all(torch.equal(value, env.sim.params[name]) for name, value in nominal.items())
    assert rotate_inverse(env.sim.state.root_quat_wxyz, env.sim.state.root_lin_vel_w).abs().max() == 0


@pytest.mark.parametrize(
    ("robot", "preset"), [("a1", "gaussgym_a1"), ("t1", "gaussgym_t1"), ("anymal_c", "gaussgym_anymal_c")]
)
def test_presets_run_on_their_robots(robot, preset):
    """Random actions, all of the preset: finite, and every env's physics its own."""
    sim = make_sim("mujoco", robot, [flat_scene()], 6)
    randomize = randomize_preset(preset)
    env = Env(sim, replace(EnvCfg(), randomize=randomize, episode_s=1.0), seed=3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(80):
        obs, *_ = env.step(0.5 * torch.randn(6, env.num_actions, generator=generator))
        assert all(torch.isfinite(values).all() for values in obs.values())
    assert sim.invalid_count == 0
    varied = {
        _PARAM_OF[name]
        for name in _PARAM_OF
        if getattr(randomize, name) != getattr(RandomizeCfg.none(), name)
    }
    for name in varied:
        assert len(torch.unique(sim.params[name].reshape(6, -1)[:, -1])) == 6, name


def test_armature_factor_is_of_each_joints_own():
    sim, _ = robots({"armature_factor": (2.0, 2.0)})
    assert sim.params["armature"][0].tolist() == pytest.approx([0.01] * 12)
    with pytest.raises(InputError, match="both armature_factor and armature_kg_m2"):
        robots({"armature_factor": (2.0, 2.0), "armature_kg_m2": (0.1, 0.1)})
