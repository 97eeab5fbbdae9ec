"""How soft and how bouncy MuJoCo's contacts are: from compliance and restitution to a shape's ``solref``.

A contact is a spring and a damper, ``solref = (time constant, damping ratio)``, or in some models ``(-stiffness, -damping)``.
With damping ratio z a body leaves the ground with the share e = exp(-pi z / sqrt(1 - z^2)) of the speed that it came with
(half a period of a damped oscillation). Restitution leaves the spring as stiff as it is and makes the damper weaker by z(e).

For feet there is more to it. A loaded foot that leaves the ground comes back faster than it left, within one substep of 5 ms
(30 N on 0.2 kg: 0.75 m/s): with a weak damper a robot that should stand trembles and wanders off by 0.2 m/s. Engines that know
impulses let nothing bounce below some speed. Here a foot bounces only if it comes from the air (`AIRBORNE_SUBSTEPS`), and each
of its contacts becomes firm in time (`SETTLED_SUBSTEPS`).

Measured over phases between two substeps and speeds of 0.5 to 3 m/s (a ball; robots with locked joints on their feet or their
backs): within 0.09 of the share that should come back, on the mean, and never more than 0.65. From a share of 0.85 on an
impact could give back more than there was, which is why a restitution of 1 stands for half of the speed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

CONTACT_PARAMS = ("compliance", "restitution")
"""Those of `gaussgym_sim.vecsim.PARAMS` that shape ``solref`` together."""
GROUND_SHARE = 0.5
"""The ground's restitution is 0, and the mean of both is in force."""
AIRBORNE_SUBSTEPS = 3
"""After so long in the air a foot's next contact bounces."""
SETTLED_SUBSTEPS = 30
"""A contact that has lasted so long is an impact no more."""


def damping_factor(restitution: Any) -> Any:
    """Factor z on damping with which ``restitution`` times `GROUND_SHARE` of an impact's speed comes back: 1 at 0.

    Arrays, here and below, are all numpy's or all torch's.
    """
    xp = _module_of(restitution)
    log = xp.log(GROUND_SHARE * restitution + 1e-30)
    return xp.where(restitution > 0, -log / xp.sqrt(math.pi**2 + log**2), 1.0)


def contact_solref(nominal: Any, compliance: Any, restitution: Any) -> Any:
    """``solref`` of shapes.

    Args:
        nominal: [S, 2] the model's.
        compliance: [R], see `gaussgym_sim.vecsim.PARAMS`.
        restitution: [R] in 0..1, the same.

    Returns:
        [R, S, 2], ``nominal`` to the bit where both are 0.
    """
    xp = _module_of(nominal)
    slower, damping = (1.0 + compliance)[:, None], damping_factor(restitution)[:, None]
    first, second = nominal[:, 0], nominal[:, 1]
    direct = first <= 0
    # The time constant is that of the damper: longer where the damper is weaker.
    return xp.stack(
        (
            xp.where(direct, first / slower**2, first * (slower / damping)),
            xp.where(direct, second * (damping / slower), second * damping),
        ),
        -1,
    )


def _module_of(array: Any) -> Any:
    return torch if isinstance(array, torch.Tensor) else np
