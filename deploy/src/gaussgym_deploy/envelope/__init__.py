"""The envelope of a policy: how far latency, camera, noise, ground, load and motors may be from nominal before it fails."""

from __future__ import annotations

from .sweep import MARGIN, STANDARD_SWEEPS, EnvelopeCfg, Sweep, envelope_of, measure_envelope, parse_sweeps

__all__ = [
    "MARGIN",
    "STANDARD_SWEEPS",
    "EnvelopeCfg",
    "Sweep",
    "envelope_of",
    "measure_envelope",
    "parse_sweeps",
]
