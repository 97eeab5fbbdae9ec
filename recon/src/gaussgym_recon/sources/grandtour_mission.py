"""The files of a GrandTour mission: its zarr store, its images, its cameras."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import inverse_rigid, matrix_from_quat_wxyz, rigid
from numpy.typing import NDArray

BOX = "box_base"
"""The frame that the sensors' mounts are told in; a few are told in `base`."""
HOW = "unpack the mission's archives again"


@dataclass(frozen=True)
class Mission:
    """An open mission."""

    name: str
    folder: Path
    root: Any

    @classmethod
    def open(cls, folder: Path) -> Mission:
        """Open a mission's folder.

        Raises:
            InputError: It is none, or the package zarr is missing.
        """
        if not folder.is_dir():
            raise InputError(f"{folder}: not found; expected a GrandTour mission with `data` and `images`")
        for name in ("data", "images"):
            if not (folder / name).is_dir():
                tars = " (its .tar files are still packed)" if any(folder.rglob("*.tar")) else ""
                raise InputError(
                    f"{folder}: has no folder `{name}`{tars}; expected an unpacked GrandTour mission"
                )
        try:
            zarr = importlib.import_module("zarr")
        except ImportError:
            raise InputError(
                f"{folder}: reading a mission needs zarr; install it with `pip install zarr` (extra `grandtour`)"
            ) from None
        try:
            root = zarr.open_group(str(folder / "data"), mode="r")
        except Exception as error:  # zarr raises a dozen kinds
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{folder / 'data'}: is no zarr group ({reason}); {HOW}") from None
        return cls(str(folder), folder, root)

    def attributes(self, tag: str) -> dict[str, Any]:
        """What the store says of a sensor.

        Raises:
            InputError: There is no such sensor.
        """
        if tag not in self.root:
            found = ", ".join(sorted(self.root.keys())[:12]) or "none"
            raise InputError(
                f"{self.name}: has no sensor {tag!r} (found {found}); download it, or name others"
            )
        return dict(self.root[tag].attrs)

    def array(self, tag: str, name: str) -> NDArray[Any]:
        """All values of a sensor's array.

        Raises:
            InputError: There is no such array, or it is damaged.
        """
        return np.asarray(self._read(tag, name, slice(None)))

    def times_s(self, tag: str) -> NDArray[np.float64]:
        """A sensor's stamps [s since 1970].

        Raises:
            InputError: They are missing or not finite.
        """
        stamps = self.array(tag, "timestamp").reshape(-1)
        # Early releases stamp in integer nanoseconds.
        times = stamps.astype(np.float64) * (1e-9 if stamps.dtype.kind in "iu" else 1.0)
        if not np.isfinite(times).all():
            raise InputError(f"{self.name}: stamps of {tag} are not finite; {HOW}")
        return times

    def image(self, tag: str, row: int, *, required: bool = True) -> Path | None:
        """File of a camera's image.

        Raises:
            InputError: It is missing and required.
        """
        for suffix in (".jpeg", ".jpg", ".png"):
            file = self.folder / "images" / tag / f"{row:06d}{suffix}"
            if file.is_file():
                return file
        if required:
            raise InputError(
                f"{self.folder / 'images' / tag}: lacks image {row:06d}, though the store lists it; {HOW}"
            )
        return None

    def scans(self, tag: str, rows: list[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Row and points `[P, 3]` [m] in the LiDAR's frame of some scans; `rows` sorted.

        A chunk of the store holds many scans, so each is read once.

        Raises:
            InputError: The arrays are missing, damaged, or do not go together.
        """
        if not rows:
            return
        counts = self.array(tag, "valid").reshape(-1)
        shape = self._array(tag, "points").shape
        if len(shape) != 3 or shape[2] != 3 or len(counts) != shape[0] or counts.max(initial=0) > shape[1]:
            raise InputError(
                f"{self.name}: {tag} has points {shape} and {len(counts)} counts up to {counts.max(initial=0)}; "
                f"expected [scans, points, 3] and a count a scan, {HOW}"
            )
        step = int(self._array(tag, "points").chunks[0])
        for start in sorted({row // step * step for row in rows}):
            block = self._read(tag, "points", slice(start, min(start + step, shape[0])))
            for row in (row for row in rows if start <= row < start + step):
                yield row, np.asarray(block[row - start, : int(counts[row])], dtype=np.float32)

    def from_box_base(self, name: str) -> NDArray[np.float64]:
        """`[4, 4]` map of points of the robot's box to a sensor (by its tag) or a frame.

        Raises:
            InputError: The mission does not say.
        """
        transform = None
        if name in self.root and name != "tf":
            attributes = self.attributes(name)
            transform, name = attributes.get("transform"), str(attributes.get("frame_id", name))
        if name == BOX:
            return np.eye(4)
        static = self._static()
        transform = transform or static.get(name)
        if transform is None and name == "base" and BOX in static:
            return np.asarray(inverse_rigid(self._matrix(static[BOX], BOX)), np.float64)
        if transform is None:
            raise InputError(f"{self.name}: says nothing of where {name!r} is mounted; {HOW}")
        matrix, base = self._matrix(transform, name), transform.get("base_frame_id")
        if base == BOX:
            return matrix
        if base != "base":
            raise InputError(f"{self.name}: {name} is mounted on {base!r}; expected {BOX} or base")
        box = static.get(BOX)
        if box is None or box.get("base_frame_id") != "base":
            raise InputError(f"{self.name}: its `tf` lacks {BOX} in base, which {name} needs; download `tf`")
        return matrix @ inverse_rigid(self._matrix(box, BOX))

    def _static(self) -> dict[str, Any]:
        return self.attributes("tf").get("tf", {})

    def _matrix(self, transform: dict[str, Any], name: str) -> NDArray[np.float64]:
        try:
            t, q = transform["translation"], transform["rotation"]
            position = np.array([t["x"], t["y"], t["z"]], dtype=np.float64)
            quat_wxyz = np.array([q["w"], q["x"], q["y"], q["z"]], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.name}: the transform of {name} lacks or misuses {error}; {HOW}"
            ) from None
        if not np.isfinite(position).all() or abs(float(np.linalg.norm(quat_wxyz)) - 1) > 1e-2:
            raise InputError(f"{self.name}: the transform of {name} is no rigid motion; {HOW}")
        return np.asarray(rigid(matrix_from_quat_wxyz(quat_wxyz), position), np.float64)

    def _array(self, tag: str, name: str) -> Any:
        self.attributes(tag)
        group = self.root[tag]
        if name not in group:
            raise InputError(f"{self.name}: {tag} lacks its array `{name}`; {HOW}")
        return group[name]

    def _read(self, tag: str, name: str, rows: slice) -> NDArray[Any]:
        array = self._array(tag, name)
        try:
            return array[rows]
        except Exception as error:  # whatever the store and its codecs raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.name}: {tag}/{name} is damaged ({reason}); {HOW}") from None


@dataclass(frozen=True)
class RosCamera:
    """A camera and the pinhole that its images become."""

    tag: str
    model: str
    width: int
    height: int
    intrinsics: Intrinsics
    """Of the images that are written."""
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    """Where each pixel of the pinhole image lies in the original (OpenCV's remap); None where images stay as they are."""
    valid: NDArray[np.bool_] | None
    """Pixels of the pinhole image that the lens saw; None where that is all."""

    def check_size(self, pixels: NDArray[np.uint8], file: Path) -> None:
        """Refuse an image that is not of this camera's size.

        Raises:
            InputError: It is not.
        """
        if pixels.shape[:2] != (self.height, self.width):
            raise InputError(
                f"{file}: is {pixels.shape[1]}x{pixels.shape[0]}, the camera {self.width}x{self.height}; {HOW}"
            )

    def pinhole_image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image without distortion."""
        import cv2

        assert self.maps is not None
        out = cv2.remap(pixels, *self.maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(out, np.uint8)

    def pinhole_mask(self, use: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """Mask of the written image: what the lens saw and the original's mask lets through; None for all."""
        import cv2

        if use is not None and self.maps is not None:
            use = cv2.remap(use.astype(np.uint8), *self.maps, cv2.INTER_NEAREST) > 0
        if use is None:
            use = self.valid
        elif self.valid is not None:
            use = use & self.valid
        return use


def ros_camera(mission: Mission, tag: str, *, balance: float) -> RosCamera:
    """A camera by its `camera_info`.

    Args:
        mission: The mission.
        tag: Of the camera.
        balance: See `GrandTourCfg.balance`.

    Raises:
        InputError: It is no camera, or its lens is of an unknown model.
    """
    info = mission.attributes(tag).get("camera_info")
    try:
        assert info is not None
        width, height, model = int(info["width"]), int(info["height"]), str(info["distortion_model"])
        k = np.array(info["K"], dtype=np.float64).reshape(3, 3)
        d = np.array(info["D"], dtype=np.float64).reshape(-1)
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{mission.name}: {tag} has no camera_info with sizes, K and D ({error}); {HOW}"
        ) from None
    if not np.isfinite(k).all() or not np.isfinite(d).all() or min(width, height, k[0, 0], k[1, 1]) <= 0:
        raise InputError(f"{mission.name}: camera_info of {tag} is no camera; {HOW}")
    expected = {"equidistant": (4,), "plumb_bob": (4, 5), "radtan": (4, 5), "rational_polynomial": (8,)}
    if len(d) not in expected.get(model, ()):
        known = ", ".join(f"{name} ({'/'.join(map(str, n))})" for name, n in expected.items())
        raise InputError(
            f"{mission.name}: lens of {tag} is {model!r} with {len(d)} numbers; expected {known}"
        )
    if model in ("plumb_bob", "radtan") and (len(d) == 4 or d[4] == 0.0):
        camera = _intrinsics(k, width, height, (d[0], d[1], d[2], d[3]))
        return RosCamera(tag, model, width, height, camera, None, None)
    new_k, maps = _undistortion(model, k, d, (width, height), balance)
    map_x, map_y = maps
    valid = (map_x >= -0.5) & (map_x <= width - 0.5) & (map_y >= -0.5) & (map_y <= height - 0.5)
    return RosCamera(
        tag, model, width, height, _intrinsics(new_k, width, height), maps, None if valid.all() else valid
    )


def _undistortion(
    model: str, k: NDArray[np.float64], d: NDArray[np.float64], size: tuple[int, int], balance: float
) -> tuple[NDArray[np.float64], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pinhole matrix (pixel centres at integers) and OpenCV's map from its pixels to the original's."""
    import cv2

    if model == "equidistant":
        new_k = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(k, d, size, np.eye(3), balance=balance)
        maps = cv2.fisheye.initUndistortRectifyMap(k, d, np.eye(3), new_k, size, cv2.CV_32FC1)
    else:
        new_k, _ = cv2.getOptimalNewCameraMatrix(k, d, size, balance, size)
        maps = cv2.initUndistortRectifyMap(k, d, np.eye(3), new_k, size, cv2.CV_32FC1)
    return np.asarray(new_k, np.float64), (np.asarray(maps[0], np.float32), np.asarray(maps[1], np.float32))


def _intrinsics(
    k: NDArray[np.float64], width: int, height: int, distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
) -> Intrinsics:
    """With pixel centres at .5, where ROS and OpenCV have them at integers."""
    return Intrinsics(
        width=width,
        height=height,
        fx=float(k[0, 0]),
        fy=float(k[1, 1]),
        cx=float(k[0, 2]) + 0.5,
        cy=float(k[1, 2]) + 0.5,
        distortion=tuple(float(value) for value in distortion),  # type: ignore[arg-type]
    )
