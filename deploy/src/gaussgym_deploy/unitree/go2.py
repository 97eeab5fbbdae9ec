"""The Go2 itself: the DDS link on a real interface, after the robot's own motion service has let go of the motors.

Not run on hardware by us: everything that a simulated robot on DDS can show is tested against one, with a stand-in of the motion
service.
"""

from __future__ import annotations

from ..bundle import PolicyBundle
from ..robot_io import LinkError
from .dds_link import DdsLink, DdsLinkCfg
from .motion_switcher import release_motion_service

__all__ = ["open_go2"]

LISTEN_S = 1.0


def open_go2(
    bundle: PolicyBundle,
    *,
    interface: str,
    domain: int = 0,
    start_timeout_s: float = 10.0,
    dry_run: bool = False,
) -> DdsLink:
    """The link ``go2``: hear the robot, release its motion service, make sure that nobody else commands it, then join.

    Args:
        bundle: The policy bundle, for a Go2.
        interface: Network interface that the robot is plugged into, e.g. ``eth0``.
        domain: DDS domain; 0 on the robots.
        start_timeout_s: How long to wait for the robot's first state [s].
        dry_run: Only listen: the motion service keeps the motors, and the command topic is not joined.

    Raises:
        LinkError: When the policy is for another robot, cyclonedds is not 0.10.x, the robot is not heard, does not release its
            motors, or is commanded by somebody else.
    """
    if bundle.robot != "go2":
        raise LinkError(f"the policy {bundle.path} is for {bundle.robot!r}, this link is for a 'go2'")
    cfg = DdsLinkCfg(domain, interface, listen_s=LISTEN_S, start_timeout_s=start_timeout_s)
    if dry_run:
        return DdsLink(bundle.joint_names, cfg, listen_only=True)
    return DdsLink(bundle.joint_names, cfg, release=release_motion_service)
