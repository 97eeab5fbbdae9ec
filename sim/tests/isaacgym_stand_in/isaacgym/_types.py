# ruff: noqa: RUF012  (tables that nobody changes)
"""Plain structures of the interface. Unknown attributes and wrong types are errors, as with the real (compiled) ones."""

import enum

import numpy as np


class Misuse(RuntimeError):
    """The caller did what the real package does not allow, or would silently get wrong."""


class Struct:
    """Fields with a type and a default, given as ``fields``."""

    fields: dict = {}

    def __init__(self):
        for name, (kind, default) in self.fields.items():
            object.__setattr__(self, name, kind() if default is None else default)

    def __setattr__(self, name, value):
        if name not in self.fields:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        kind = self.fields[name][0]
        number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(
            value, (bool, np.bool_)
        )
        fits = {
            float: number,
            int: isinstance(value, (int, np.integer)) and not isinstance(value, bool),
            bool: isinstance(value, (bool, np.bool_)),
        }.get(kind, isinstance(value, kind))
        if not fits:
            raise TypeError(
                f"{type(self).__name__}.{name} takes {kind.__name__}, not {type(value).__name__} {value!r}"
            )
        object.__setattr__(self, name, kind(value) if kind in (float, int, bool) else value)


class Vec3(Struct):
    fields = {"x": (float, 0.0), "y": (float, 0.0), "z": (float, 0.0)}

    def __init__(self, x=0.0, y=0.0, z=0.0):
        super().__init__()
        self.x, self.y, self.z = x, y, z

    def array(self):
        return np.array([self.x, self.y, self.z])


class Quat(Struct):
    fields = {"x": (float, 0.0), "y": (float, 0.0), "z": (float, 0.0), "w": (float, 1.0)}

    def __init__(self, x=0.0, y=0.0, z=0.0, w=1.0):
        super().__init__()
        self.x, self.y, self.z, self.w = x, y, z, w


class Transform(Struct):
    fields = {"p": (Vec3, None), "r": (Quat, None)}


class Mat33(Struct):
    fields = {"x": (Vec3, None), "y": (Vec3, None), "z": (Vec3, None)}

    def array(self):
        return np.stack([self.x.array(), self.y.array(), self.z.array()])

    @classmethod
    def of(cls, matrix):
        m = cls()
        m.x, m.y, m.z = (Vec3(*row) for row in matrix)
        return m


class UpAxis(enum.IntEnum):
    UP_AXIS_Y = 0
    UP_AXIS_Z = 1


class SimType(enum.IntEnum):
    SIM_PHYSX = 0
    SIM_FLEX = 1


class ContactCollection(enum.IntEnum):
    CC_NEVER = 0
    CC_LAST_SUBSTEP = 1
    CC_ALL_SUBSTEPS = 2


class DofDriveMode(enum.IntEnum):
    DOF_MODE_NONE = 0
    DOF_MODE_POS = 1
    DOF_MODE_VEL = 2
    DOF_MODE_EFFORT = 3


class CoordinateSpace(enum.IntEnum):
    ENV_SPACE = 0
    LOCAL_SPACE = 1
    GLOBAL_SPACE = 2


class IndexDomain(enum.IntEnum):
    DOMAIN_ACTOR = 0
    DOMAIN_ENV = 1
    DOMAIN_SIM = 2


class PhysXParams(Struct):
    fields = {
        "always_use_articulations": (bool, False), "bounce_threshold_velocity": (float, 0.2),
        "contact_collection": (ContactCollection, ContactCollection.CC_ALL_SUBSTEPS), "contact_offset": (float, 0.02),
        "default_buffer_size_multiplier": (float, 2.0), "friction_correlation_distance": (float, 0.025),
        "friction_offset_threshold": (float, 0.04), "max_depenetration_velocity": (float, 100.0),
        "max_gpu_contact_pairs": (int, 1 << 20), "num_position_iterations": (int, 4), "num_subscenes": (int, 0),
        "num_threads": (int, 0), "num_velocity_iterations": (int, 1), "rest_offset": (float, 0.001),
        "solver_type": (int, 1), "use_gpu": (bool, False),
    }  # fmt: skip


class SimParams(Struct):
    fields = {
        "dt": (float, 1 / 60), "substeps": (int, 2), "up_axis": (UpAxis, UpAxis.UP_AXIS_Y), "gravity": (Vec3, None),
        "use_gpu_pipeline": (bool, False), "num_client_threads": (int, 0), "physx": (PhysXParams, None),
        "enable_actor_creation_warning": (bool, True),
    }  # fmt: skip


class AssetOptions(Struct):
    fields = {
        "angular_damping": (float, 0.5), "armature": (float, 0.0), "collapse_fixed_joints": (bool, False),
        "default_dof_drive_mode": (int, 0), "density": (float, 1000.0), "disable_gravity": (bool, False),
        "enable_gyroscopic_forces": (bool, True), "fix_base_link": (bool, False),
        "flip_visual_attachments": (bool, False), "linear_damping": (float, 0.0),
        "max_angular_velocity": (float, 64.0), "max_linear_velocity": (float, 1000.0), "override_com": (bool, False),
        "override_inertia": (bool, False), "replace_cylinder_with_capsule": (bool, False),
        "slices_per_cylinder": (int, 20), "thickness": (float, 0.02), "use_physx_armature": (bool, True),
    }  # fmt: skip


class TriangleMeshParams(Struct):
    fields = {
        "dynamic_friction": (float, 1.0), "nb_triangles": (int, 0), "nb_vertices": (int, 0), "restitution": (float, 0.0),
        "segmentation_id": (int, 0), "static_friction": (float, 1.0), "transform": (Transform, None),
    }  # fmt: skip


class RigidBodyProperties(Struct):
    fields = {
        "com": (Vec3, None), "flags": (int, 0), "inertia": (Mat33, None), "invInertia": (Mat33, None),
        "invMass": (float, 0.0), "mass": (float, 0.0),
    }  # fmt: skip


class RigidShapeProperties(Struct):
    fields = {
        "compliance": (float, 0.0), "contact_offset": (float, 0.02), "filter": (int, 0), "friction": (float, 1.0),
        "rest_offset": (float, 0.0), "restitution": (float, 0.0), "rolling_friction": (float, 0.0),
        "thickness": (float, 0.0), "torsion_friction": (float, 0.0),
    }  # fmt: skip


DOF_PROPERTIES = np.dtype(
    [("hasLimits", "?"), ("lower", "<f4"), ("upper", "<f4"), ("driveMode", "<i4"), ("velocity", "<f4"), ("effort", "<f4"),
     ("stiffness", "<f4"), ("damping", "<f4"), ("friction", "<f4"), ("armature", "<f4")]
)  # fmt: skip
