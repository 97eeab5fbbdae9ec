"""The robot links of this package by name; what each of them needs is imported when it is opened."""

from __future__ import annotations

from typing import Optional

from .bundle import PolicyBundle
from .robot_io import ROBOT_LINKS, RobotIO
from .robot_process import open_sim


def open_dds_sim(
    bundle: PolicyBundle,
    *,
    domain: Optional[int] = None,
    scene: Optional[str] = None,
    camera: Optional[str] = None,
    interface: str = "lo",
    start_timeout_s: float = 30.0,
) -> RobotIO:
    """A simulated robot behind real DDS; see :func:`gaussgym_deploy.unitree.simulated.open_simulated`."""
    from .unitree.simulated import open_simulated

    return open_simulated(
        bundle,
        domain=domain,
        scene=scene,
        camera=camera,
        interface=interface,
        start_timeout_s=start_timeout_s,
    )


def open_go2(
    bundle: PolicyBundle, *, interface: str, domain: int = 0, start_timeout_s: float = 10.0
) -> RobotIO:
    """A Go2 on a real network; see :func:`gaussgym_deploy.unitree.go2.open_go2`."""
    from .unitree.go2 import open_go2 as opened

    return opened(bundle, interface=interface, domain=domain, start_timeout_s=start_timeout_s)


ROBOT_LINKS.update({"dds-sim": open_dds_sim, "go2": open_go2, "sim": open_sim})
