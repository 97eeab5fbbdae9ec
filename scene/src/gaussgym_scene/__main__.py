"""Command `gaussgym-scene`: make procedural scenes, check scene folders, hand scenes to other tools."""

import shutil
import sys
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Union

import numpy as np
import tyro
from PIL import Image

from gaussgym_scene import command
from gaussgym_scene.artifact import replace_directory
from gaussgym_scene.errors import InputError
from gaussgym_scene.formats import SUFFIXES, load_splats, save_splats
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import KINDS


@dataclass
class Check:
    """Verify a scene folder: every file's size and hash, every array's shape and values; print what it holds."""

    directory: tyro.conf.Positional[Path]
    """The scene's folder, or its scene.json."""

    def run(self) -> None:
        """Load everything and print the table."""
        for name, value in facts_of(Scene.load(self.directory)):
            print(f"{name:<14}{value}")


@dataclass
class Convert:
    """Write a scene in formats that other tools open.

    To a name that ends in .ply, .compressed.ply, .spz, .splat or .sog go the splats alone. To a folder go splats.ply
    (standard 3DGS) and, of a scene, mesh.obj with its textures if the scene is procedural.
    """

    source: tyro.conf.Positional[Path]
    """A splat file (.ply, .compressed.ply, .spz, .splat, .sog) or a scene folder."""
    output: Path
    """Splat file or folder to write; replaced if it exists."""
    max_sh_degree: int = 3
    """Highest degree of the splats' spherical harmonics to keep, 0 to 3."""
    min_opacity: float = 0.0
    """Leave out splats that are fainter, 0 to 1."""

    def run(self) -> Path:
        """Write the folder and return it."""
        return convert(
            self.source, self.output, max_sh_degree=self.max_sh_degree, min_opacity=self.min_opacity
        )


def _synth_class(kind: str) -> type:
    """The subcommand that makes one kind, with its parameters as options."""
    cfg_type, make = KINDS.get(kind)

    def run(self: Any) -> Path:
        return make(self.cfg, self.seed).save(self.output)

    fields = [
        ("cfg", Annotated[cfg_type, tyro.conf.arg(name="")]),
        ("output", Annotated[Path, tyro.conf.arg(help="Folder to write; replaced if it exists.")]),
        ("seed", Annotated[int, tyro.conf.arg(help="What is not given is drawn from it.")], 0),
    ]
    made = make_dataclass(f"Synth{kind.title()}", fields, namespace={"run": run})
    made.__doc__ = cfg_type.__doc__
    return made


_SynthKind = Union[*(Annotated[_synth_class(kind), tyro.conf.subcommand(kind)] for kind in KINDS.names())]


@dataclass
class Synth:
    """Make a procedural scene."""

    kind: Annotated[_SynthKind, tyro.conf.arg(name="")]

    def run(self) -> Path:
        """Write the scene and return its manifest's path."""
        return self.kind.run()


def facts_of(scene: Scene) -> list[tuple[str, str]]:
    """The rows of the table that `check` prints; reads all members."""
    ground, paths, splats, mesh = scene.heightfield, scene.paths, scene.splats, scene.mesh
    known = ground.height_m[ground.known]
    ny, nx = ground.height_m.shape
    size_x, size_y = ground.size_m
    lines = [paths.line(int(i)) for i in np.unique(paths.path_id)]
    lengths = [float(np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum()) for line in lines]
    rows = [
        ("scene", scene.name),
        ("splats", f"{len(splats)} of degree {splats.sh_degree}"),
        ("mesh", f"{len(mesh.faces)} triangles, {len(mesh.vertices)} vertices"),
        ("heightfield", f"{nx} x {ny} points, {ground.cell_m:g} m apart: {size_x:.1f} x {size_y:.1f} m"),
    ]
    if known.size:
        rows.append(
            ("ground", f"{known.min():.3f} to {known.max():.3f} m, {ground.known.mean():.0%} of it known")
        )
    if lines:
        steps = max(float(np.abs(np.diff(line[:, 2])).max(initial=0.0)) for line in lines)
        rows.append(
            (
                "paths",
                f"{len(lines)}, {min(lengths):.1f} to {max(lengths):.1f} m long, steps up to {steps:.3f} m",
            )
        )
    if len(mesh.vertices):
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        bounds = ", ".join(f"{axis} {a:.1f} to {b:.1f}" for axis, a, b in zip("xyz", low, high))
        rows.append(("bounds", f"{bounds} m"))
    if scene.appearance is not None:
        texels = sum(texture.shape[0] * texture.shape[1] for texture in scene.appearance.textures)
        rows.append(("textures", f"{len(scene.appearance.textures)}, {texels / 1e6:.1f} million texels"))
    rows.append(("scale", str(scene.metadata.get("scale_source", "not stated"))))
    return [*rows, ("hashes", "ok")]


def convert(source: Path, output: Path, *, max_sh_degree: int = 3, min_opacity: float = 0.0) -> Path:
    """Write a scene in formats that other tools open; see `Convert`.

    Args:
        source: A splat file or a scene folder.
        output: A splat file by its name (see `gaussgym_scene.formats`), else a folder; replaced if it exists.
        max_sh_degree: Highest degree of the splats' spherical harmonics to keep, 0 to 3.
        min_opacity: Leave out splats that are fainter, 0 to 1.

    Returns:
        The file or folder.

    Raises:
        InputError: If the source cannot be read, lies inside the output, or a setting is out of range.
    """
    if not (0 <= max_sh_degree <= 3 and 0 <= min_opacity <= 1):
        raise InputError(
            f"max_sh_degree {max_sh_degree} and min_opacity {min_opacity}: expected 0 to 3 and 0 to 1"
        )
    if source.resolve() == output.resolve() or output.resolve() in source.resolve().parents:
        raise InputError(f"{output}: holds the source {source}; choose another name")
    scene = None if _is_splat_file(source) else Scene.load(source)
    splats = load_splats(source) if scene is None else scene.splats
    splats = splats.subset(splats.opacities >= min_opacity)
    splats.sh = np.ascontiguousarray(splats.sh[:, : (max_sh_degree + 1) ** 2])
    if _is_splat_file(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        save_splats(splats, output)
        return output
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    splats.save_ply(partial / "splats.ply")
    if scene is not None:
        write_obj(scene, partial)
    replace_directory(partial, output)
    return output


def _is_splat_file(path: Path) -> bool:
    """Whether a name is that of a splat file; a folder may be an unbundled SOG."""
    return path.name.lower().endswith(SUFFIXES) or (path / "meta.json").exists() or path.name == "meta.json"


def write_obj(scene: Scene, folder: Path) -> None:
    """Write `mesh.obj`, and for a procedural scene `mesh.mtl` and one PNG a texture, into a folder."""
    mesh, look = scene.mesh, scene.appearance
    lines = ["v {:.6g} {:.6g} {:.6g}".format(*vertex) for vertex in mesh.vertices.tolist()]
    if look is None:
        lines += ["f {} {} {}".format(*face) for face in (mesh.faces + 1).tolist()]
    else:
        # OBJ counts texture rows from the bottom, we from the top.
        lines += [f"vt {u:.6g} {1 - v:.6g}" for u, v in look.uv.reshape(-1, 2).tolist()]
        lines.insert(0, "mtllib mesh.mtl")
        for index in np.unique(look.texture_id).tolist():
            lines.append(f"usemtl texture_{index}")
            for face in np.flatnonzero(look.texture_id == index).tolist():
                a, b, c = (mesh.faces[face] + 1).tolist()
                lines.append(f"f {a}/{3 * face + 1} {b}/{3 * face + 2} {c}/{3 * face + 3}")
        materials = []
        for index, texture in enumerate(look.textures):
            Image.fromarray(texture).save(folder / f"texture_{index}.png", compress_level=1)
            materials += [f"newmtl texture_{index}", "Kd 1 1 1", f"map_Kd texture_{index}.png"]
        (folder / "mesh.mtl").write_text("\n".join(materials) + "\n")
    (folder / "mesh.obj").write_text("\n".join(lines) + "\n")


Command = (
    Annotated[Synth, tyro.conf.subcommand("synth")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
)


def main() -> int:
    """Run the command line."""
    return command.run(lambda: tyro.cli(Command, prog="gaussgym-scene", description=__doc__).run())  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
