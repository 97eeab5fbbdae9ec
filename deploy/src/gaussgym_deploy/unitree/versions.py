"""Which cyclonedds may speak on which network.

Announcing a type with an array field from Python's cyclonedds 11.0.1 ended a 0.10.2 peer with a segmentation fault (measured
between the two on a desk; a robot's own build was not tried). All of Unitree's low-level messages have arrays and the robots
run 0.10.x. So 11.x may speak on the loopback interface only, and not in domain 0, where a robot's own processes live.
"""

from __future__ import annotations

import sys
from importlib import metadata

from ..robot_io import LinkError

__all__ = ["check_versions", "cyclonedds_version", "is_loopback"]

ROBOT_VERSION = "0.10."
_IFF_LOOPBACK = 0x8


def cyclonedds_version() -> str:
    """Version of the installed Python package.

    Raises:
        LinkError: When it is not installed.
    """
    try:
        return metadata.version("cyclonedds")
    except metadata.PackageNotFoundError:
        raise LinkError(
            "DDS links need the package cyclonedds, which is not installed here; on a desk: pip install"
            " 'gaussgym-deploy[dds]', on a robot's network: pip install 'cyclonedds==0.10.2' (wheels up to Python 3.10)"
        ) from None


def is_loopback(interface: str) -> bool:
    """Whether an interface reaches this machine only.

    Args:
        interface: Name, e.g. ``lo`` or ``eth0``, or its address.
    """
    if interface.startswith("127."):
        return True
    if sys.platform.startswith("linux"):
        try:
            with open(f"/sys/class/net/{interface}/flags", encoding="ascii") as file:
                return bool(int(file.read(), 16) & _IFF_LOOPBACK)
        except (OSError, ValueError):
            return False
    return interface == "lo0"


def check_versions(version: str, interface: str, domain: int) -> None:
    """Refuse what could crash a robot's own processes.

    Args:
        version: Of the Python package cyclonedds.
        interface: Network interface.
        domain: DDS domain.

    Raises:
        LinkError: When this version must not speak there.
    """
    if not 0 <= domain <= 230:
        raise LinkError(f"the DDS domain is {domain}, expected 0 ... 230")
    if version.startswith(ROBOT_VERSION):
        return
    where = None
    if not is_loopback(interface):
        where = f"on the network interface {interface!r}, where a robot may listen"
    elif domain == 0:
        where = "in DDS domain 0, which the robots use"
    if where is not None:
        raise LinkError(
            f"cyclonedds {version} must not speak {where}: it crashes peers that run 0.10.x, as Unitree's robots do;"
            " use cyclonedds 0.10.2 there (pip install 'cyclonedds==0.10.2', Python 3.7 ... 3.10), or the loopback"
            " interface with another domain"
        )
