"""What a photograph's EXIF block says of its camera: focal length, orientation, GPS, time.

Tags by CIPA DC-008 (Exif 2.32).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gaussgym_scene.errors import InputError
from PIL import Image, UnidentifiedImageError

FILM_DIAGONAL_MM = math.hypot(36.0, 24.0)
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
FOCAL_MM, FOCAL_35MM = 0x920A, 0xA405
PLANE_X_RESOLUTION, PLANE_Y_RESOLUTION, PLANE_UNIT = 0xA20E, 0xA20F, 0xA210
PIXELS_X, PIXELS_Y, TIME_ORIGINAL, SUBSECOND = 0xA002, 0xA003, 0x9003, 0x9291
MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}


@dataclass(frozen=True)
class Photo:
    """What one image file says; None where it does not."""

    width: int
    """Stored pixels, before the orientation is applied."""
    height: int
    focal_px: float | None
    orientation: int
    """1 upright … 8, as the tag says."""
    gps_lat_lon_alt: tuple[float, float, float] | None
    """WGS84 [deg], [deg], [m]; altitude NaN where only latitude and longitude are given."""
    timestamp_s: float | None


def read_photo(path: Path, *, decode: bool = True) -> Photo:
    """Open an image file and read what it says.

    Args:
        path: JPEG, PNG or any other format that Pillow reads.
        decode: Whether to decode all pixels, which finds truncated files.

    Raises:
        InputError: The file is no image, or is truncated.
    """
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            if decode:
                image.load()
            width, height = image.size
            detail, gps = dict(exif.get_ifd(EXIF_IFD)), dict(exif.get_ifd(GPS_IFD))
            orientation = int(exif.get(ORIENTATION, 1) or 1)
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read; remove it or export it again") from None
    except FileNotFoundError:
        raise InputError(f"{path}: not found") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: does not decode ({error}); copy it again or remove it") from None
    return Photo(
        width=width,
        height=height,
        focal_px=focal_length_px(detail, width, height),
        orientation=orientation if orientation in range(1, 9) else 1,
        gps_lat_lon_alt=gps_position(gps),
        timestamp_s=_time_of(detail),
    )


def focal_length_px(detail: dict[int, Any], width: int, height: int) -> float | None:
    """Focal length in pixels of the stored image, from the tags of the Exif block.

    The 35 mm equivalent is taken over the diagonal (43.27 mm of film for the image's diagonal in pixels), as the
    CIPA defines it; without it the focal length in millimetres and the resolution of the sensor.

    Args:
        detail: Tags and values of the Exif block.
        width: Stored image [px]; it may have been resized since.
        height: Stored image [px].

    Returns:
        Pixels, or None when the tags do not say or are absurd.
    """
    focal = None
    equivalent = _number(detail.get(FOCAL_35MM))
    if equivalent:
        focal = equivalent / FILM_DIAGONAL_MM * math.hypot(width, height)
    else:
        focal_mm, density = _number(detail.get(FOCAL_MM)), _number(detail.get(PLANE_X_RESOLUTION))
        unit_mm = MM_PER_UNIT.get(int(_number(detail.get(PLANE_UNIT)) or 2))
        taken_width = _number(detail.get(PIXELS_X)) or width
        if focal_mm and density and unit_mm:
            focal = focal_mm * density / unit_mm * width / taken_width
    if focal is None or not 0.2 < focal / max(width, height) < 20.0:
        return None
    return float(focal)


def gps_position(gps: dict[int, Any]) -> tuple[float, float, float] | None:
    """Latitude [deg], longitude [deg], altitude [m] from the tags of the GPS block; None without a valid fix."""
    latitude, longitude = _degrees(gps.get(2)), _degrees(gps.get(4))
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return None
    if latitude == 0.0 and longitude == 0.0:
        return None
    altitude = _number(gps.get(6), zero_ok=True)
    below = gps.get(5) in (1, b"\x01")
    return (
        -latitude if str(gps.get(1, "N")).upper().startswith("S") else latitude,
        -longitude if str(gps.get(3, "E")).upper().startswith("W") else longitude,
        math.nan if altitude is None else (-altitude if below else altitude),
    )


def exif_block(
    *,
    focal_35mm: float,
    gps_lat_lon_alt: tuple[float, float, float] | None = None,
    timestamp_s: float | None = None,
    make: str = "gaussgym",
    model: str = "synthetic",
) -> Image.Exif:
    """Build an EXIF block to save a JPEG with; what :func:`read_photo` reads back.

    Args:
        focal_35mm: 35 mm equivalent focal length [mm]; the tag holds whole millimetres.
        gps_lat_lon_alt: WGS84 [deg], [deg], [m].
        timestamp_s: Seconds since 1970, UTC.
        make: Camera maker.
        model: Camera model.
    """
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[ORIENTATION] = make, model, 1
    detail: dict[int, Any] = {FOCAL_35MM: round(focal_35mm)}
    if timestamp_s is not None:
        moment = datetime.fromtimestamp(timestamp_s, UTC)
        detail[TIME_ORIGINAL] = moment.strftime("%Y:%m:%d %H:%M:%S")
        detail[SUBSECOND] = f"{moment.microsecond // 1000:03d}"
    exif.get_ifd(EXIF_IFD).update(detail)
    if gps_lat_lon_alt is not None:
        latitude, longitude, altitude = gps_lat_lon_alt
        exif.get_ifd(GPS_IFD).update(
            {
                1: "N" if latitude >= 0 else "S",
                2: _degrees_minutes_seconds(abs(latitude)),
                3: "E" if longitude >= 0 else "W",
                4: _degrees_minutes_seconds(abs(longitude)),
                5: b"\x01" if altitude < 0 else b"\x00",
                6: abs(altitude),
            }
        )
    return exif


def _degrees_minutes_seconds(value: float) -> tuple[float, float, float]:
    degrees = math.floor(value)
    minutes = math.floor((value - degrees) * 60)
    return float(degrees), float(minutes), (value - degrees - minutes / 60) * 3600


def _degrees(value: Any) -> float | None:
    try:
        degrees, minutes, seconds = (float(part) for part in value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    total = degrees + minutes / 60 + seconds / 3600
    return total if math.isfinite(total) else None


def _number(value: Any, *, zero_ok: bool = False) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and (number > 0 or (zero_ok and number == 0)) else None


def _time_of(detail: dict[int, Any]) -> float | None:
    try:
        moment = datetime.strptime(str(detail[TIME_ORIGINAL]).strip("\x00 "), "%Y:%m:%d %H:%M:%S")
        part = str(detail.get(SUBSECOND, "0")).strip("\x00 ")
        fraction = float(f"0.{part}") if part.isdigit() else 0.0
        return moment.replace(tzinfo=UTC).timestamp() + fraction
    except (KeyError, ValueError):
        return None
