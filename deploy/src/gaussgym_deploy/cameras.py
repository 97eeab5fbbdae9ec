"""Cameras by name, for robots whose link carries no images."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, Optional, Sequence

from .bundle import PolicyBundle
from .camera import Camera
from .robot_io import LinkError

__all__ = ["CAMERAS", "open_camera"]


def _open_shared_memory(bundle: PolicyBundle, *, name: str, timeout_s: float = 300.0) -> Camera:
    from .unitree.camera_link import SharedMemoryCamera

    return SharedMemoryCamera(name, timeout_s=timeout_s)


def _open_go2_front(
    bundle: PolicyBundle,
    *,
    interface: str,
    domain: int = 0,
    lens: Optional[Sequence[float]] = None,
    hz: float = 15.0,
    latency_s: float = 0.0,
) -> Camera:
    from .image_fit import lens_from
    from .unitree.front_camera import Go2FrontCamera
    from .unitree.wire import Wire

    spec = _spec(bundle)
    fitted = None if lens is None else lens_from(lens)
    return Go2FrontCamera(Wire(domain, interface), spec, lens=fitted, hz=hz, latency_s=latency_s)


def _open_realsense(
    bundle: PolicyBundle,
    *,
    width: int = 424,
    height: int = 240,
    hz: int = 30,
    latency_s: float = 0.0,
    serial: Optional[str] = None,
) -> Camera:
    from .realsense import RealSenseCamera

    return RealSenseCamera(
        _spec(bundle), width=width, height=height, hz=hz, latency_s=latency_s, serial=serial
    )


CAMERAS: Dict[str, Callable[..., Camera]] = {
    "shared-memory": _open_shared_memory,
    "go2-front": _open_go2_front,
    "realsense": _open_realsense,
}
"""Each takes the bundle (whose camera it imitates), and keyword options."""


def open_camera(camera: str, bundle: PolicyBundle, /, **options: Any) -> Camera:
    """Open a camera by name.

    Args:
        camera: A key of :data:`CAMERAS`.
        bundle: The policy bundle that will see through it.
        options: Of that camera.

    Raises:
        LinkError: When there is no such camera or option, an option is missing, or it does not open.
    """
    if camera not in CAMERAS:
        raise LinkError(f"no camera named {camera!r}; there is: {', '.join(sorted(CAMERAS))}")
    parameters = list(inspect.signature(CAMERAS[camera]).parameters.values())[1:]
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            raise LinkError(f"camera {camera!r} has no option {option!r}; there is: {', '.join(known)}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise LinkError(
                f"camera {camera!r} needs the option {parameter.name}: --camera-option {parameter.name}=..."
            )
    return CAMERAS[camera](bundle, **options)


def _spec(bundle: PolicyBundle) -> Any:
    if bundle.camera is None:
        raise LinkError(f"the policy {bundle.path} is blind: it takes no camera")
    return bundle.camera
