"""From fitted values to ranges of randomization: a file that `gaussgym_sim.presets` and `gaussgym_render.robot_camera` read."""

from __future__ import annotations

from typing import Any

import numpy as np

from gaussgym_learn.gap.fitting import Fit
from gaussgym_learn.gap.response import Response

FORMAT, VERSION = "gaussgym-preset", 1
LONGEST_DELAY_S = 0.06
"""What simulators remember (`gaussgym_sim.vecsim.MAX_DELAY_SUBSTEPS`)."""
_FIELDS = {
    "delay_s": ("delay_s", 0.005),
    "strength": ("strength_factor", 0.05),
    "joint_friction_nm": ("joint_friction_nm", 0.05),
    "joint_damping_nms": ("joint_damping_nm_s", 0.05),
    "ground_friction": ("friction", 0.1),
}
"""Parameter -> field of `RandomizeCfg`, and the half width that a range has at least: no robot is the same every day."""


def preset(
    fit: Fit, response: Response | None, *, state_age_s: float, made_from: dict[str, Any]
) -> dict[str, Any]:
    """A preset around what was fitted; what the log did not show stays as in the preset ``base``.

    Args:
        fit: of the physics.
        response: of the camera, or None.
        state_age_s: added to the delay: simulators count from the state that a command answers.
        made_from: what to remember of where it comes from.
    """
    ranges: dict[str, list[float]] = {}
    for name, (field, least) in _FIELDS.items():
        estimate = fit.estimates.get(name)
        if estimate is None or estimate.value is None or estimate.std_error is None:
            continue
        half = max(least, 1.96 * estimate.std_error)
        value = estimate.value + (state_age_s if name == "delay_s" else 0.0)
        low, high = max(0.0, value - half), value + half
        if name == "delay_s":
            low, high = (min(x, LONGEST_DELAY_S) for x in (low, high))
        ranges[field] = [round(low, 6), round(high, 6)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "base": "default",
        "randomize": ranges,
        "sensor": {} if response is None else _sensor(response),
        "made_from": made_from,
    }


def _sensor(response: Response) -> dict[str, list[float]]:
    """Ranges of `gaussgym_render.sensor.SensorCfg`, which has no offset and one range for red and blue."""
    stops, errors = np.log2(response.gain), response.gain_error / response.gain / np.log(2.0)
    ranges = {}
    if "gain g" not in response.hidden:
        half = max(0.15, 1.96 * errors[1])
        ranges["exposure_ev"] = [float(stops[1] - half), float(stops[1] + half)]
        balance = [stops[i] - stops[1] for i, c in ((0, "r"), (2, "b")) if f"gain {c}" not in response.hidden]
        if balance:
            ranges["white_balance_ev"] = [float(min(balance) - 0.05), float(max(balance) + 0.05)]
    if "gamma" not in response.hidden:
        half = max(0.03, 1.96 * response.gamma_error)
        ranges["gamma"] = [float(response.gamma - half), float(response.gamma + half)]
    return {name: [round(x, 4) for x in pair] for name, pair in ranges.items()}
