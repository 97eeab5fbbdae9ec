"""Which feet would bounce now: `gaussgym_sim.engines.contact_law` for the feet of E robots, substep by substep."""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from gaussgym_sim.engines.contact_law import AIRBORNE_SUBSTEPS, SETTLED_SUBSTEPS


class FootBounces:
    """Contact and air times of feet, and the ``solref`` that follows.

    Args:
        solref: [L, 2] of the feet, nominal.
        num_envs: E.
    """

    def __init__(self, solref: NDArray[np.float64], num_envs: int) -> None:
        self.used = False
        """Whether any foot ever bounced; `apply` need not be called before."""
        self._table = np.tile(solref, (num_envs, 2, 1, 1))  # [E, firm or bouncing, L, 2]
        self._substeps = np.full((num_envs, len(solref)), AIRBORNE_SUBSTEPS, dtype=np.int16)
        self._bouncing = np.ones((num_envs, len(solref)), dtype=bool)

    def set(self, envs: NDArray[np.int64], firm: NDArray[np.float64], bouncing: NDArray[np.float64]) -> None:
        """Values [R, L, 2] of environments."""
        self._table[envs, 0], self._table[envs, 1] = firm, bouncing
        self.used = self.used or not np.array_equal(firm, bouncing)

    def reset(self, envs: NDArray[np.int64]) -> None:
        """Robots begin in the air."""
        self._substeps[envs], self._bouncing[envs] = AIRBORNE_SUBSTEPS, True

    def current(self, envs: NDArray[np.int64]) -> NDArray[np.float64]:
        """What is in force now, [R, L, 2]."""
        return np.where(self._bouncing[envs][..., None], self._table[envs, 1], self._table[envs, 0])

    def apply(
        self,
        envs: NDArray[np.int64],
        sensors: NDArray[np.float64],
        found: NDArray[np.int64],
        solref: NDArray[np.float64],
        feet: NDArray[np.int64],
    ) -> None:
        """After a substep: which feet touched in it decides on the next one.

        Args:
            envs: [n].
            sensors: [n, M], more than 0 where a foot touches, in the feet's columns ``found`` [L].
            found: see ``sensors``.
            solref: [n, G, 2] of all shapes; those of ``feet`` [L] are written.
            feet: see ``solref``.
        """
        _apply(envs, sensors, found, self._table, self._substeps, self._bouncing, feet, solref)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Times, not parameters."""
        return {
            "substeps": self._substeps.copy(),
            "bouncing": self._bouncing.copy(),
            "used": np.array(self.used),
        }

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """The other way round."""
        self._substeps[:], self._bouncing[:] = state["substeps"], state["bouncing"]
        self.used = bool(state["used"])


@numba.njit(cache=True, nogil=True)
def _apply(envs, sensors, found, table, substeps, bouncing, feet, solref):
    for i in range(len(envs)):
        e = envs[i]
        for leg in range(len(feet)):
            n = substeps[e, leg]  # in the air so far, or less than 0: in contact
            if sensors[i, found[leg]] > 0:
                n = max(min(n, 0) - 1, -SETTLED_SUBSTEPS)
                if n == -SETTLED_SUBSTEPS:
                    bouncing[e, leg] = False
            elif n < 0:
                n = 1
                bouncing[e, leg] = False
            else:
                n = min(n + 1, AIRBORNE_SUBSTEPS)
                if n == AIRBORNE_SUBSTEPS:
                    bouncing[e, leg] = True
            substeps[e, leg] = n
            for k in range(2):
                solref[i, feet[leg], k] = table[e, int(bouncing[e, leg]), leg, k]
