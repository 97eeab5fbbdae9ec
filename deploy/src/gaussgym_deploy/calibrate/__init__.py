"""Calibration of a robot's camera: intrinsics, distortion, mount, latency. OpenCV (extra ``calibrate``) is imported late."""

from __future__ import annotations
