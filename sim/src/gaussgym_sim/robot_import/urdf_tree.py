"""URDF → `mujoco.MjSpec`, with every link's mass, joint and shape checked on the way.

MuJoCo reads URDF itself, but it repairs bad inertias in silence or says little about them, and forgets efforts.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import quat_wxyz_from_matrix
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOVING = ("revolute",)
_UNSUPPORTED = {
    "continuous": "a continuous joint has no limits; make it 'revolute' with lower and upper",
    "prismatic": "a prismatic joint; expected revolute ones, fix it if it is no part of a leg",
    "planar": "a planar joint; expected revolute ones",
}


@dataclass
class Inertial:
    """Mass [kg], centre [3] and inertia about it [3, 3] of ``link``, in the frame of what it is fixed to."""

    mass_kg: float
    com: Array
    inertia: Array
    link: str


@dataclass
class Shape:
    """A collision shape: 'box' (half extents), 'sphere' (radius), 'cylinder' (radius, half length) or 'mesh' (scale)."""

    kind: str
    size: tuple[float, ...]
    pose: Array
    mesh: Path | None = None


@dataclass
class Joint:
    """One revolute joint."""

    name: str
    axis: Array
    low: float
    high: float
    effort: float
    speed: float | None
    damping: float
    friction: float


@dataclass
class Link:
    """A link with all that is fixed to it; ``joint`` moves it in its parent, None for the base."""

    name: str
    pose: Array
    joint: Joint | None
    parts: list[Inertial] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    children: list[Link] = field(default_factory=list)

    def inertial(self) -> Inertial:
        """All parts as one rigid body (parallel axes)."""
        mass = sum(p.mass_kg for p in self.parts)
        if mass <= 0.0:
            return Inertial(mass, np.zeros(3), np.zeros((3, 3)), self.name)
        com = np.sum([p.mass_kg * p.com for p in self.parts], axis=0) / mass
        total = np.zeros((3, 3))
        for part in self.parts:
            d = part.com - com
            total += part.inertia + part.mass_kg * (d @ d * np.eye(3) - np.outer(d, d))
        return Inertial(mass, com, total, self.name)

    def walk(self) -> Iterator[Link]:
        """This link and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


def read_urdf(path: Path) -> Link:
    """Read a URDF's tree of links; links on fixed joints become part of what carries them.

    Raises:
        InputError: not a URDF, no or several bases, a loop, a number missing or unreadable, a joint of a kind that is not
            supported.
    """
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise InputError(f"{path}: not readable as XML ({error})") from None
    return _Reader(path, root).read()


class _Reader:
    """One URDF; methods raise `InputError` with the file and the element in the text."""

    def __init__(self, path: Path, root: ET.Element) -> None:
        self.path = path
        self.links = {self._name(e): e for e in root.findall("link")}
        self.joints = root.findall("joint")
        self.below: dict[str, list[ET.Element]] = {name: [] for name in self.links}

    def read(self) -> Link:
        parents: dict[str, str] = {}
        for joint in self.joints:
            parent, child = (self._end(joint, end) for end in ("parent", "child"))
            if child in parents:
                raise InputError(
                    f"{self.path}: link {child!r} has two parents ({parents[child]!r}, {parent!r}); expected a tree without loops"
                )
            parents[child] = parent
            self.below[parent].append(joint)
        bases = [name for name in self.links if name not in parents]
        if len(bases) != 1:
            raise InputError(
                f"{self.path}: has {len(bases)} base links ({', '.join(bases) or 'none'}), expected one that all others hang on"
            )
        base = Link(bases[0], np.eye(4), None)
        self._fill(base, bases[0], np.eye(4))
        if base.parts:  # often a massless dummy comes first, for planners
            base.name = max(base.parts, key=lambda part: part.mass_kg).link
        return base

    def _fill(self, link: Link, name: str, pose: Array) -> None:
        """Add the link called ``name``, lying at ``pose`` in ``link``, and what is below it."""
        element = self.links[name]
        part = self._inertial(name, element, pose)
        if part is not None:
            link.parts.append(part)
        link.shapes += [self._shape(name, c, pose) for c in element.findall("collision")]
        for joint in self.below[name]:
            there, child = pose @ self._origin(joint), self._end(joint, "child")
            kind, what = joint.get("type", ""), f"{self.path}: joint {self._name(joint)!r}"
            if kind in ("fixed", "floating"):  # a floating one under a dummy base is our own free joint
                if kind == "floating" and link.parts:
                    raise InputError(f"{what} floats below a link with mass; expected one base")
                self._fill(link, child, there)
            elif kind in _MOVING:
                moved = Link(child, there, self._joint(joint))
                link.children.append(moved)
                self._fill(moved, child, np.eye(4))
            else:
                raise InputError(f"{what} is {_UNSUPPORTED.get(kind, f'of unknown type {kind!r}')}")

    def _joint(self, joint: ET.Element) -> Joint:
        name = self._name(joint)
        what = f"{self.path}: joint {name!r}"
        if joint.find("mimic") is not None:
            raise InputError(f"{what} mimics another; expected a motor of its own, or a fixed joint")
        limit, dynamics = joint.find("limit"), joint.find("dynamics")
        if limit is None or limit.get("lower") is None or limit.get("upper") is None:
            raise InputError(f"{what} has no limits; expected <limit lower= upper= effort=>")
        low, high = self._number(limit, "lower", what), self._number(limit, "upper", what)
        if not low < high:
            raise InputError(f"{what}: limits {low:g} to {high:g} rad leave no room; expected lower < upper")
        if limit.get("effort") is None or self._number(limit, "effort", what) <= 0.0:
            raise InputError(
                f"{what} has effort {limit.get('effort')}; expected its greatest torque in Nm, above 0"
            )
        speed = self._number(limit, "velocity", what) if limit.get("velocity") else 0.0
        axis = self._vector(joint.find("axis"), "xyz", (1.0, 0.0, 0.0), what)
        if not np.linalg.norm(axis) > 0.0:
            raise InputError(f"{what} has the axis 0 0 0; expected a direction")
        damping, friction = (
            0.0 if dynamics is None or dynamics.get(key) is None else self._number(dynamics, key, what)
            for key in ("damping", "friction")
        )
        effort = self._number(limit, "effort", what)
        return Joint(
            name,
            axis / np.linalg.norm(axis),
            low,
            high,
            effort,
            speed if speed > 0.0 else None,
            damping,
            friction,
        )

    def _inertial(self, name: str, link: ET.Element, pose: Array) -> Inertial | None:
        found = link.find("inertial")
        if found is None:
            return None
        what = f"{self.path}: link {name!r}"
        mass, inertia = found.find("mass"), found.find("inertia")
        if mass is None or inertia is None:
            raise InputError(f"{what}: <inertial> without mass or inertia")
        value = self._number(mass, "value", what)
        if value < 0.0:
            raise InputError(f"{what} has mass {value:g} kg; expected 0 or more")
        if value == 0.0:
            return None
        xx, yy, zz, xy, xz, yz = (
            self._number(inertia, f"i{k}", what) for k in ("xx", "yy", "zz", "xy", "xz", "yz")
        )
        at = pose @ self._origin(found)
        turn = at[:3, :3]
        moments = turn @ np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]) @ turn.T
        return Inertial(value, at[:3, 3], moments, name)

    def _shape(self, name: str, collision: ET.Element, pose: Array) -> Shape:
        what = f"{self.path}: collision shape of link {name!r}"
        geometry = collision.find("geometry")
        shape = None if geometry is None or not len(geometry) else geometry[0]
        if shape is None:
            raise InputError(f"{what} is empty; expected box, cylinder, sphere or mesh")
        at = pose @ self._origin(collision)
        if shape.tag == "box":
            return Shape("box", tuple(self._vector(shape, "size", None, what) / 2), at)
        if shape.tag == "sphere":
            return Shape("sphere", (self._number(shape, "radius", what),), at)
        if shape.tag in ("cylinder", "capsule"):
            size = (self._number(shape, "radius", what), self._number(shape, "length", what) / 2)
            return Shape(shape.tag, size, at)
        if shape.tag == "mesh":
            scale = self._vector(shape, "scale", (1.0, 1.0, 1.0), what)
            return Shape("mesh", tuple(scale), at, self._mesh_file(shape.get("filename", ""), what))
        raise InputError(f"{what} is a <{shape.tag}>; expected box, cylinder, capsule, sphere or mesh")

    def _mesh_file(self, name: str, what: str) -> Path:
        """A mesh's file; ``package://`` is looked for upwards from the URDF, with and without the package's name."""
        relative = Path(name.split("://", 1)[-1].lstrip("/") if "://" in name else name)
        ways = [relative, Path(*relative.parts[1:])] if len(relative.parts) > 1 else [relative]
        for folder in self.path.resolve().parents:
            for way in ways:
                if (folder / way).is_file():
                    return folder / way
        raise InputError(
            f"{what}: mesh {name!r} not found above {self.path.parent}; put it there or use a primitive"
        )

    def _name(self, element: ET.Element) -> str:
        name = element.get("name")
        if not name:
            raise InputError(f"{self.path}: a <{element.tag}> without a name")
        return name

    def _end(self, joint: ET.Element, end: str) -> str:
        found = joint.find(end)
        name = None if found is None else found.get("link")
        if name not in self.links:
            raise InputError(
                f"{self.path}: joint {self._name(joint)!r} names {name!r} as its {end}; there is no such link"
            )
        return str(name)

    def _origin(self, element: ET.Element) -> Array:
        found, pose = element.find("origin"), np.eye(4)
        if found is None:
            return pose
        what = f"{self.path}: origin in <{element.tag}> {element.get('name', '')}"
        pose[:3, 3] = self._vector(found, "xyz", (0.0, 0.0, 0.0), what)
        roll, pitch, yaw = self._vector(found, "rpy", (0.0, 0.0, 0.0), what)
        (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (roll, pitch, yaw))
        about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
        about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
        about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
        pose[:3, :3] = about_z @ about_y @ about_x
        return pose

    def _number(self, element: ET.Element, key: str, what: str) -> float:
        text = element.get(key)
        try:
            value = float(text) if text is not None else float("nan")
        except ValueError:
            value = float("nan")
        if not np.isfinite(value):
            raise InputError(f"{what}: <{element.tag}> has {key}={text!r}; expected a number")
        return value

    def _vector(
        self, element: ET.Element | None, key: str, default: tuple[float, ...] | None, what: str
    ) -> Array:
        text = None if element is None else element.get(key)
        if text is None and default is not None:
            return np.array(default)
        try:
            values = np.array([float(t) for t in (text or "").split()])
        except ValueError:
            values = np.zeros(0)
        if len(values) != 3 or not np.isfinite(values).all():
            raise InputError(f"{what}: {key}={text!r}; expected three numbers")
        return values


def urdf_spec(base: Link, *, armature: float) -> mujoco.MjSpec:
    """A tree of links as a model without ground: one free joint, one motor a joint.

    Args:
        base: from `read_urdf`; its inertias must be sound.
        armature: rotor inertia of every joint [kg m^2], of which a URDF says nothing.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    spec.compiler.inertiafromgeom = mujoco.mjtInertiaFromGeom.mjINERTIAFROMGEOM_FALSE
    _add_link(spec, spec.worldbody, base, armature)
    return spec


def _add_link(spec: mujoco.MjSpec, parent: mujoco.MjsBody, link: Link, armature: float) -> None:
    body = parent.add_body(
        name=link.name, pos=link.pose[:3, 3], quat=quat_wxyz_from_matrix(link.pose[:3, :3])
    )
    inertial = link.inertial()
    i = inertial.inertia
    body.explicitinertial = True
    body.mass, body.ipos = inertial.mass_kg, inertial.com
    body.fullinertia = [i[0, 0], i[1, 1], i[2, 2], i[0, 1], i[0, 2], i[1, 2]]
    if link.joint is None:
        body.add_freejoint(name="root")
    else:
        joint = link.joint
        body.add_joint(
            name=joint.name, type=mujoco.mjtJoint.mjJNT_HINGE, axis=joint.axis, range=[joint.low, joint.high],
            limited=True, armature=armature, damping=joint.damping, frictionloss=joint.friction,
        )  # fmt: skip
        motor = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.ctrllimited, motor.ctrlrange = True, [-joint.effort, joint.effort]
    for shape in link.shapes:
        geom = body.add_geom(
            type=getattr(mujoco.mjtGeom, f"mjGEOM_{shape.kind.upper()}"),
            pos=shape.pose[:3, 3], quat=quat_wxyz_from_matrix(shape.pose[:3, :3]),
        )  # fmt: skip
        if shape.mesh is None:
            geom.size[: len(shape.size)] = shape.size
        else:
            geom.meshname = _add_mesh(spec, shape)
    for child in link.children:
        _add_link(spec, body, child, armature)


def _add_mesh(spec: mujoco.MjSpec, shape: Shape) -> str:
    name = f"mesh{len(spec.meshes)}"
    spec.add_mesh(name=name, file=str(shape.mesh), scale=list(shape.size))
    return name
