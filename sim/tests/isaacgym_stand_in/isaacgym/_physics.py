"""One robot in MuJoCo: what an actor is made of."""

import copy
import xml.etree.ElementTree as ET

import mujoco
import numpy as np

from ._terrain import add_mesh
from ._types import DOF_PROPERTIES, Mat33, Misuse, RigidBodyProperties, RigidShapeProperties, Vec3

_BIG = 1e10


def xyzw(quat_wxyz):
    return np.asarray(quat_wxyz)[[1, 2, 3, 0]]


def rotation(quat_wxyz):
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quat_wxyz, np.float64))
    return matrix.reshape(3, 3)


class Asset:
    """A URDF, with bodies and joints in an order of our own: depth first, children by name."""

    def __init__(self, path, options):
        root = ET.parse(path).getroot()
        self.text, self.options = ET.tostring(root, encoding="unicode"), options
        if options.fix_base_link or options.disable_gravity:
            raise NotImplementedError("the stand-in's robots are free and fall")
        children, self.fixed = {}, set()
        for joint in root.iter("joint"):
            if joint.get("type") == "fixed":
                self.fixed.add(joint.get("name"))
                if options.collapse_fixed_joints and joint.get("dont_collapse") != "true":
                    raise NotImplementedError("the stand-in does not merge links")
            parent, child = joint.find("parent").get("link"), joint.find("child").get("link")
            children.setdefault(parent, []).append((child, joint.get("name")))
        below = {child for pairs in children.values() for child, _ in pairs}
        self.bodies, self.dofs = [], []

        def visit(link, joint):
            self.bodies.append(link)
            if joint is not None and joint not in self.fixed:
                self.dofs.append(joint)
            for child, name in sorted(children.get(link, [])):
                visit(child, name)

        (base,) = [link.get("name") for link in root.iter("link") if link.get("name") not in below]
        visit(base, None)

    def compile(self, params, meshes, pos, *, self_collision):
        """A model of the robot on some meshes."""
        compiler = '<mujoco><compiler fusestatic="false" balanceinertia="false"/></mujoco>'
        spec = mujoco.MjSpec.from_string(self.text.replace(">", ">" + compiler, 1))
        base = spec.worldbody.first_body()
        base.add_freejoint()
        base.pos = pos
        spec.option.timestep = params.dt
        spec.option.gravity = params.gravity.array()
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.option.iterations, spec.option.ls_iterations = 10, 20
        spec.option.disableflags = (
            mujoco.mjtDisableBit.mjDSBL_AUTORESET | mujoco.mjtDisableBit.mjDSBL_EULERDAMP
        )
        for geom in spec.geoms:
            capsule = (
                geom.type == mujoco.mjtGeom.mjGEOM_CYLINDER and self.options.replace_cylinder_with_capsule
            )
            geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE if capsule else geom.type
            geom.contype, geom.conaffinity, geom.priority = 1, int(self_collision), 1
            geom.solref = [0.01, 1.0]
        for mesh in meshes:
            add_mesh(spec, mesh)
        model = spec.compile()
        model.opt.timestep = params.dt
        return model


class Actor:
    """One robot, with its own model."""

    def __init__(self, asset, model, meshes):
        self.asset, self.meshes = asset, meshes
        self.model, self.data = copy.copy(model), mujoco.MjData(model)
        self.bodies = np.array([model.body(name).id for name in asset.bodies])
        joints = [model.joint(name) for name in asset.dofs]
        self.q = np.array([j.qposadr[0] for j in joints], dtype=int)
        self.v = np.array([j.dofadr[0] for j in joints], dtype=int)
        self.geoms = [g for b in self.bodies for g in np.flatnonzero(model.geom_bodyid == b)]
        self.dof_props = np.zeros(len(self.q), DOF_PROPERTIES)
        for i, joint in enumerate(joints):
            limited = bool(model.jnt_limited[joint.id])
            low, high = model.jnt_range[joint.id] if limited else (-_BIG, _BIG)
            self.dof_props[i] = (
                limited, low, high, int(asset.options.default_dof_drive_mode), 1000.0, model.jnt_actfrcrange[joint.id, 1], 0.0,
                model.dof_damping[self.v[i]], model.dof_frictionloss[self.v[i]], asset.options.armature,
            )  # fmt: skip
        self.shapes = [RigidShapeProperties() for _ in self.geoms]
        self.body_props = [self._body(b) for b in self.bodies]
        self.set_dofs(self.dof_props)
        self.set_shapes(self.shapes)
        self.forces = np.zeros((len(self.bodies), 3))
        mujoco.mj_forward(self.model, self.data)

    def _body(self, body):
        m, props = self.model, RigidBodyProperties()
        axes = rotation(m.body_iquat[body])
        inertia = axes @ np.diag(m.body_inertia[body]) @ axes.T
        props.mass, props.invMass = m.body_mass[body], 1.0 / m.body_mass[body]
        props.com, props.inertia = Vec3(*m.body_ipos[body]), Mat33.of(inertia)
        props.invInertia = Mat33.of(np.linalg.inv(inertia))
        return props

    def set_dofs(self, props):
        self.dof_props = props.copy()
        if (props["driveMode"] == 3).all() and (props["stiffness"].any() or props["damping"].any()):
            raise Misuse("joints in effort mode want stiffness and damping 0")
        self.model.dof_armature[self.v] = props["armature"]
        self.model.dof_damping[self.v] = props["damping"]
        self.model.dof_frictionloss[self.v] = 0.0  # its `friction` is a share of the joint's force
        if props["friction"].any() and (props["driveMode"] == 3).all():
            raise NotImplementedError("friction of joints")
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))

    def set_shapes(self, props):
        """Materials: PhysX takes the mean of the two that touch."""
        self.shapes = copy.deepcopy(props)
        for geom, shape in zip(self.geoms, props):
            if not (shape.friction >= 0 and 0 <= shape.restitution <= 1):
                raise Misuse(
                    f"friction {shape.friction}, restitution {shape.restitution}: at least 0, in 0 to 1"
                )
            ground = self.meshes[0] if self.meshes else None
            self.model.geom_friction[geom, 0] = (shape.friction + (ground.friction if ground else 0.0)) / 2
            bounce = (shape.restitution + (ground.restitution if ground else 0.0)) / 2
            # The damping ratio with which a spring gives back this share of the speed; the spring itself stays as it is.
            log = np.log(max(bounce, 1e-9))
            ratio = 1.0 if bounce == 0 else -log / np.hypot(np.pi, log)
            self.model.geom_solref[geom] = 0.01 / ratio, ratio

    def set_bodies(self, props, *, com_may_move):
        for body, given, old in zip(self.bodies, props, self.body_props):
            inertia = given.inertia.array()
            if not np.allclose(given.com.array(), old.com.array(), atol=1e-7) and not com_may_move:
                raise Misuse("the center-of-mass cannot be changed with the GPU pipeline")
            if not np.allclose(given.invInertia.array() @ inertia, np.eye(3), atol=1e-3) or not np.isclose(
                given.mass * given.invMass, 1.0
            ):
                raise Misuse("mass and inertia do not go with their inverses")
            moments, axes = np.linalg.eigh(inertia)
            axes[:, 2] *= np.sign(np.linalg.det(axes))
            quat = np.zeros(4)
            mujoco.mju_mat2Quat(quat, axes.ravel())
            m = self.model
            m.body_mass[body], m.body_ipos[body] = given.mass, given.com.array()
            m.body_inertia[body], m.body_iquat[body] = moments, quat
        self.body_props = copy.deepcopy(props)
        mujoco.mj_setConst(self.model, mujoco.MjData(self.model))

    # ------------------------------------------------------------------ state, as Isaac Gym words it

    def root_state(self):
        d = self.data
        turn = rotation(d.qpos[3:7])
        spin = turn @ d.qvel[3:6]
        com = turn @ self.model.body_ipos[self.bodies[0]]
        return np.concatenate([d.qpos[:3], xyzw(d.qpos[3:7]), d.qvel[:3] + np.cross(spin, com), spin])

    def set_root_state(self, row):
        d, quat = self.data, row[[6, 3, 4, 5]].astype(np.float64)
        if not abs(np.linalg.norm(quat) - 1.0) < 1e-3:
            raise Misuse(f"root quaternion {row[3:7]} is no unit quaternion")
        turn, spin = rotation(quat / np.linalg.norm(quat)), row[10:13].astype(np.float64)
        com = turn @ self.model.body_ipos[self.bodies[0]]
        d.qpos[:3], d.qpos[3:7] = row[:3], quat / np.linalg.norm(quat)
        d.qvel[:3], d.qvel[3:6] = row[7:10] - np.cross(spin, com), turn.T @ spin

    def set_dof_state(self, rows):
        self.data.qpos[self.q], self.data.qvel[self.v] = rows[:, 0], rows[:, 1]
        self.data.qacc_warmstart[:] = 0.0

    def step(self, efforts, wrenches):
        d = self.data
        d.qfrc_applied[:] = 0.0
        d.qfrc_applied[self.v] = efforts
        d.xfrc_applied[self.bodies] = wrenches
        mujoco.mj_step(self.model, d)
        self._collect_forces()
        mujoco.mj_kinematics(self.model, d)
        mujoco.mj_comPos(self.model, d)
        mujoco.mj_comVel(self.model, d)

    def _collect_forces(self):
        total, wrench = np.zeros((self.model.nbody, 3)), np.zeros(6)
        for i in range(self.data.ncon):
            contact = self.data.contact[i]
            mujoco.mj_contactForce(self.model, self.data, i, wrench)
            force = contact.frame.reshape(3, 3).T @ wrench[:3]
            for geom, sign in zip(contact.geom, (-1.0, 1.0)):
                if geom >= 0:
                    total[self.model.geom_bodyid[geom]] += sign * force
        self.forces = total[self.bodies]

    def body_states(self):
        rows, velocity = np.zeros((len(self.bodies), 13)), np.zeros(6)
        for row, body in zip(rows, self.bodies):
            mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_BODY, body, velocity, 0)
            row[:3], row[3:7] = self.data.xpos[body], xyzw(self.data.xquat[body])
            row[7:10], row[10:13] = velocity[3:], velocity[:3]
        return rows
