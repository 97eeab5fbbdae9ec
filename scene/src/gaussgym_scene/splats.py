"""3D Gaussian splats and the standard 3DGS PLY."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.errors import InputError
from gaussgym_scene.ply import read_ply, write_ply

_BASES_BY_DEGREE = {0: 1, 1: 4, 2: 9, 3: 16}


@dataclass
class Splats:
    """A set of N anisotropic 3D Gaussians with view-dependent colour (Kerbl et al., 2023)."""

    means: NDArray[np.float32]
    """Centres [m], shape `[N, 3]`."""
    quats_wxyz: NDArray[np.float32]
    """Unit Hamilton quaternions that rotate the axes of `scales` into the world, shape `[N, 4]`."""
    scales: NDArray[np.float32]
    """Standard deviations along the own axes [m], linear, shape `[N, 3]`."""
    opacities: NDArray[np.float32]
    """Peak opacities in 0..1, shape `[N]`."""
    sh: NDArray[np.float32]
    """Spherical-harmonics coefficients, shape `[N, K, 3]`; colour = max(0, 0.5 + Σ basis·sh)."""
    labels: NDArray[np.int32] | None = None
    """Semantic labels, shape `[N]`, or None."""

    def __post_init__(self) -> None:
        for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
            setattr(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.float32))
        self.validate("splats")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return round(self.sh.shape[1] ** 0.5) - 1

    @property
    def colors(self) -> NDArray[np.float32]:
        """View-independent part of the colour in 0..1, shape `[N, 3]`."""
        return np.clip(0.5 + 0.28209479177387814 * self.sh[:, 0], 0.0, 1.0)

    def validate(self, where: str) -> None:
        """Check shapes and values.

        Raises:
            InputError: With `where`, what was found and what was expected.
        """
        n = len(self.means)
        expected = {"means": (n, 3), "quats_wxyz": (n, 4), "scales": (n, 3), "opacities": (n,)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"{where}: {name} has shape {getattr(self, name).shape}, expected {shape}")
        if (
            self.sh.ndim != 3
            or self.sh.shape[0] != n
            or self.sh.shape[1] not in _BASES_BY_DEGREE.values()
            or self.sh.shape[2] != 3
        ):
            raise InputError(f"{where}: sh has shape {self.sh.shape}, expected ({n}, 1 | 4 | 9 | 16, 3)")
        if self.labels is not None and self.labels.shape != (n,):
            raise InputError(f"{where}: labels has shape {self.labels.shape}, expected ({n},)")
        for name in ("means", "quats_wxyz", "scales", "opacities", "sh"):
            values = getattr(self, name)
            bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
            if bad.any():
                raise InputError(
                    f"{where}: {int(bad.sum())} of {n} splats have a NaN or infinite {name} (first: {int(np.argmax(bad))}); "
                    "remove them or train again"
                )
        if n and (self.scales.min() <= 0 or self.opacities.min() < 0 or self.opacities.max() > 1):
            raise InputError(f"{where}: scales must be positive and opacities within 0..1")
        if n and np.linalg.norm(self.quats_wxyz, axis=1).min() < 1e-6:
            raise InputError(f"{where}: a quaternion has length zero, expected rotations")

    def subset(self, index: NDArray) -> "Splats":
        """The splats picked by a boolean mask or an index array."""
        labels = None if self.labels is None else self.labels[index]
        return Splats(
            self.means[index],
            self.quats_wxyz[index],
            self.scales[index],
            self.opacities[index],
            self.sh[index],
            labels,
        )

    @classmethod
    def empty(cls, sh_degree: int = 0) -> "Splats":
        """A set without splats."""
        k = _BASES_BY_DEGREE[sh_degree]
        return cls(*(np.zeros(shape, np.float32) for shape in ((0, 3), (0, 4), (0, 3), (0,), (0, k, 3))))

    def save_ply(self, path: Path | str) -> None:
        """Write the standard 3DGS PLY (log scales, logit opacities, channel-major higher bands)."""
        n, k = len(self), self.sh.shape[1]
        opacity = np.clip(self.opacities.astype(np.float64), 1e-6, 1 - 1e-6)
        columns = [
            self.means,
            np.zeros((n, 3)),
            self.sh[:, 0],
            self.sh[:, 1:].transpose(0, 2, 1).reshape(n, 3 * (k - 1)),
        ]
        columns += [np.log(opacity / (1 - opacity))[:, None], np.log(self.scales), self.quats_wxyz]
        names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
        names += [f"f_rest_{i}" for i in range(3 * (k - 1))] + ["opacity", "scale_0", "scale_1", "scale_2"]
        names += ["rot_0", "rot_1", "rot_2", "rot_3"]
        table = np.concatenate(columns, axis=1).astype("<f4")
        rows = np.ascontiguousarray(table).view([(name, "<f4") for name in names]).reshape(n)
        elements = {"vertex": rows}
        if self.labels is not None:
            elements["label"] = self.labels.astype("<i4").view([("label", "<i4")])
        write_ply(path, elements, comments=("metric frame, +Z up",))

    @classmethod
    def load_ply(cls, path: Path | str) -> "Splats":
        """Read a 3DGS PLY as Inria's code, nerfstudio and gsplat write it.

        Raises:
            InputError: If properties are missing, the file is cut short, or values are NaN or infinite.
        """
        elements = read_ply(path)
        if "vertex" not in elements:
            raise InputError(f"{path}: has no 'vertex' element, expected a 3DGS PLY")
        rows = elements["vertex"]
        available = set(rows.dtype.names or ())
        n_rest = sum(name.startswith("f_rest_") for name in available)
        if n_rest not in {3 * (k - 1) for k in _BASES_BY_DEGREE.values()}:
            raise InputError(f"{path}: has {n_rest} f_rest properties, expected 0, 9, 24 or 45")
        dc = _colour_names(path, available)
        wanted = [
            "x",
            "y",
            "z",
            "opacity",
            *(f"scale_{i}" for i in range(3)),
            *(f"rot_{i}" for i in range(4)),
        ]
        if missing := [name for name in wanted if name not in available]:
            raise InputError(
                f"{path}: lacks {', '.join(missing)}; expected a 3DGS PLY (a mesh or a point cloud is not one)"
            )

        def columns(names: list[str]) -> NDArray[np.float32]:
            return np.stack([rows[name].astype(np.float32) for name in names], axis=1)

        n = len(rows)
        rest = columns([f"f_rest_{i}" for i in range(n_rest)]) if n_rest else np.zeros((n, 0), np.float32)
        sh = np.concatenate([dc(rows)[:, None], rest.reshape(n, 3, n_rest // 3).transpose(0, 2, 1)], axis=1)
        quats = columns([f"rot_{i}" for i in range(4)])
        norm = np.linalg.norm(quats, axis=1, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            splats = cls.__new__(cls)
            splats.means, splats.sh = columns(["x", "y", "z"]), np.ascontiguousarray(sh, dtype=np.float32)
            splats.quats_wxyz = (quats / norm).astype(np.float32)
            splats.scales = np.exp(columns(["scale_0", "scale_1", "scale_2"]))
            splats.opacities = 1 / (1 + np.exp(-rows["opacity"].astype(np.float32)))
            splats.labels = elements["label"]["label"].astype(np.int32) if "label" in elements else None
        splats.validate(str(path))
        return splats


def _colour_names(path: Path | str, available: set[str]):  # noqa: ANN202
    """How to read the view-independent coefficients: f_dc, or nerfstudio's uchar red, green, blue."""
    if {"f_dc_0", "f_dc_1", "f_dc_2"} <= available:
        return lambda rows: np.stack([rows[f"f_dc_{i}"].astype(np.float32) for i in range(3)], axis=1)
    if {"red", "green", "blue"} <= available:
        return lambda rows: (
            (np.stack([rows[c].astype(np.float32) for c in ("red", "green", "blue")], axis=1) / 255 - 0.5)
            / np.float32(0.28209479177387814)
        )
    raise InputError(f"{path}: has neither f_dc_0..2 nor red, green, blue; expected a 3DGS PLY")
