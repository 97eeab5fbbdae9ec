"""The capture artifact: photographs of one place and what is known of their cameras."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gaussgym_scene.artifact import read_artifact
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.errors import InputError

MANIFEST = "capture.json"
FORMAT = "gaussgym-capture"
VERSION = 1


@dataclass
class CaptureImage:
    """One photograph."""

    file: str
    """Path relative to the capture's folder, such as `images/0001.jpg`."""
    intrinsics: Intrinsics
    """The camera as far as it is known; `focal_source` says how far."""
    gps_lat_lon_alt: tuple[float, float, float] | None = None
    """WGS84 latitude and longitude [deg], altitude [m]."""
    c2w: NDArray[np.float64] | None = None
    """Camera-to-world pose `[4, 4]` (OpenCV) where the source knows it."""
    timestamp_s: float | None = None
    """Time of the picture [s], any origin."""


@dataclass
class Capture:
    """An ordered set of photographs, and its manifest's other fields.

    `metadata` holds `source` ('images', 'video', 'synthetic'), `ordered` (whether neighbours in the list were neighbours
    in time), `scale_source`, `gravity_source`, `licence`.
    """

    directory: Path
    images: list[CaptureImage]
    metadata: dict[str, Any] = field(default_factory=dict)

    def path(self, index: int) -> Path:
        """File of the image at `index`."""
        return self.directory / self.images[index].file

    def manifest_fields(self) -> dict[str, Any]:
        """The manifest's entries beside format, version and files."""
        images = [
            {
                "file": image.file,
                "intrinsics": image.intrinsics.to_dict(),
                "gps_lat_deg_lon_deg_alt_m": image.gps_lat_lon_alt,
                "c2w": image.c2w,
                "timestamp_s": image.timestamp_s,
            }
            for image in self.images
        ]
        return {"metadata": self.metadata, "images": images}

    @classmethod
    def load(cls, directory: Path | str, *, verify: bool = True) -> "Capture":
        """Open a capture folder after checking its manifest and files.

        Raises:
            InputError: If the folder is no capture, or a file is missing or damaged.
        """
        directory = Path(directory)
        if directory.name == MANIFEST:
            directory = directory.parent
        fields = read_artifact(
            directory, manifest=MANIFEST, format=FORMAT, versions=(VERSION,), verify=verify
        )
        try:
            images = [_image_from(entry) for entry in fields["images"]]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{directory / MANIFEST}: an image entry lacks or misuses {error}; import it again"
            ) from None
        return cls(directory, images, fields.get("metadata", {}))


def _image_from(entry: dict[str, Any]) -> CaptureImage:
    gps = entry.get("gps_lat_deg_lon_deg_alt_m")
    c2w = entry.get("c2w")
    return CaptureImage(
        file=entry["file"],
        intrinsics=Intrinsics.from_dict(entry["intrinsics"]),
        gps_lat_lon_alt=None if gps is None else (float(gps[0]), float(gps[1]), float(gps[2])),
        c2w=None if c2w is None else np.asarray(c2w, dtype=np.float64).reshape(4, 4),
        timestamp_s=entry.get("timestamp_s"),
    )
