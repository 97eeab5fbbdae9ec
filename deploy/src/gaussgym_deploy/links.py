"""The robot links of this package by name; what each of them needs is imported when it is opened."""

from __future__ import annotations

from typing import Any, Optional

from .bundle import PolicyBundle
from .robot_io import ROBOT_LINKS, LinkError, RobotIO
from .robot_process import named_options, open_sim


def open_dds_sim(
    bundle: PolicyBundle,
    *,
    domain: Optional[int] = None,
    scene: Optional[str] = None,
    camera: Optional[str] = None,
    interface: str = "lo",
    start_timeout_s: float = 30.0,
    **options: Any,
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
        **options,
    )


open_dds_sim.__signature__ = named_options(open_dds_sim)  # type: ignore[attr-defined]


def open_go2(
    bundle: PolicyBundle,
    *,
    interface: str,
    domain: int = 0,
    start_timeout_s: float = 10.0,
    dry_run: bool = False,
) -> RobotIO:
    """A Go2 on a real network; see :func:`gaussgym_deploy.unitree.go2.open_go2`."""
    from .unitree.go2 import open_go2 as opened

    return opened(
        bundle, interface=interface, domain=domain, start_timeout_s=start_timeout_s, dry_run=dry_run
    )


def open_t1(
    bundle: PolicyBundle, *, interface: str = "", domain: int = 0, start_timeout_s: float = 10.0
) -> RobotIO:
    """A Booster T1; see :func:`gaussgym_deploy.booster.open_t1`."""
    from .booster import open_t1 as opened

    return opened(bundle, interface=interface, domain=domain, start_timeout_s=start_timeout_s)


def open_ros2(
    bundle: PolicyBundle,
    *,
    joints: str = "/joint_states",
    imu: str = "/imu",
    image: str = "/camera/color/image_raw",
    cmd_vel: str = "/cmd_vel",
    command: str = "/joint_command",
    start_timeout_s: float = 10.0,
) -> RobotIO:
    """A robot behind ROS 2 topics; see :mod:`gaussgym_deploy.ros2`."""
    from .ros2 import Ros2Cfg
    from .ros2 import open_ros2 as opened

    return opened(bundle, Ros2Cfg(joints, imu, image, cmd_vel, command, start_timeout_s))


def open_go1(
    bundle: PolicyBundle,
    *,
    accept_untested: bool = False,
    kd_scale: Optional[float] = None,
    address: str = "192.168.123.10",
    port: int = 8007,
    local_port: int = 8080,
    start_timeout_s: float = 5.0,
    dry_run: bool = False,
) -> RobotIO:
    """A Go1 over UDP, not run on hardware; see :mod:`gaussgym_deploy.unitree.sdk_udp`."""
    if dry_run:
        raise LinkError(
            "a Go1 answers only who sends it packets: there is no dry run on it; leave out --dry-run and kd_scale"
            " to read its states (damping is sent)"
        )
    from .unitree.sdk_udp import open_go1 as opened

    return opened(
        bundle,
        accept_untested=accept_untested,
        kd_scale=kd_scale,
        address=address,
        port=port,
        local_port=local_port,
        start_timeout_s=start_timeout_s,
    )


def open_a1(bundle: PolicyBundle) -> RobotIO:
    """Refuses, and says why; see :mod:`gaussgym_deploy.unitree.sdk_udp`."""
    from .unitree.sdk_udp import open_a1 as opened

    return opened(bundle)


ROBOT_LINKS.update(
    {
        "a1": open_a1,
        "dds-sim": open_dds_sim,
        "go1": open_go1,
        "go2": open_go2,
        "ros2": open_ros2,
        "sim": open_sim,
        "t1": open_t1,
    }
)
