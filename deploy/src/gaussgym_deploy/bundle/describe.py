"""A bundle for stacks that are not Python: its manifest as a C++ header, its golden trace as text.

``deploy/cpp`` holds the reference that reads both; see "Other stacks" in the README.
"""

from __future__ import annotations

import json
import math
from typing import Any, Iterable, List

import numpy as np

from ..guards import GuardLimits
from .contents import BundleError, PolicyBundle
from .reading import RAW_READINGS

__all__ = ["cpp_header", "trace_text"]

TRACE_COLUMNS = ("reset", *RAW_READINGS, "actions", "proprio")
_HEADER = """\
// A policy bundle for C++17: written by `gaussgym-deploy describe`, do not edit. Values as in policy.json; see its "conventions".
#pragma once
#include <array>
#include <limits>

namespace gaussgym {

// One term of the observation: `size` values, each times its scale (kTermScale from `first` on), then within +-clip.
struct Term {
  const char* name;
  int first;
  int size;
  double clip;
};

namespace policy {
"""


def cpp_header(bundle: PolicyBundle) -> str:
    """The manifest's numbers, and the runtime's limits for them, as a C++17 header of constants.

    Args:
        bundle: The checked bundle.
    """
    limits, camera, memory = GuardLimits.of(bundle.guards), bundle.camera, bundle.recurrent
    lines: List[str] = [
        f"constexpr const char* kRobot = {json.dumps(bundle.robot)};",
        f"constexpr int kJoints = {len(bundle.joint_names)};",
        _array("const char*", "kJointName", map(json.dumps, bundle.joint_names)),
        _numbers("kDefaultJointPosRad", bundle.default_joint_pos),
        _numbers("kKpNmPerRad", bundle.kp),
        _numbers("kKdNmsPerRad", bundle.kd),
        _numbers("kActionScaleRad", bundle.action_scale),
        _numbers("kTorqueLimitNm", bundle.torque_limit),
        _numbers("kJointPosLowerRad", bundle.joint_pos_limit[:, 0]),
        _numbers("kJointPosUpperRad", bundle.joint_pos_limit[:, 1]),
        _numbers("kJointVelLimitRadS", bundle.joint_vel_limit),
        _number("kActionClip", bundle.action_clip),
        _number("kControlHz", bundle.control_hz),
        _number("kTorqueFactor", limits.torque_factor),
        _number("kTargetMarginRad", limits.target_margin_rad),
        _number("kTargetRateRadS", limits.target_rate_rad_s),
        "// Sizes of the networks' inputs; 0 where there is none.",
        f"constexpr int kProprio = {bundle.proprio_size};",
        f"constexpr int kFeature = {bundle.feature_size};",
        f"constexpr int kMemoryLayers = {0 if memory is None else memory.layers};",
        f"constexpr int kMemory = {0 if memory is None else memory.hidden};",
        f"constexpr int kImageWidth = {0 if camera is None else camera.width};",
        f"constexpr int kImageHeight = {0 if camera is None else camera.height};",
    ]
    if camera is not None:
        intrinsics = (camera.fx, camera.fy, camera.cx, camera.cy)
        lines += [
            _number("kCameraHz", bundle.camera_hz),
            _numbers("kCameraFxFyCxCyPx", intrinsics),
            _numbers("kCameraPositionBM", camera.position_b_m),
            _numbers("kCameraQuatBCWxyz", camera.quat_b_c_wxyz),
        ]
    lines += _terms(bundle)
    return _HEADER + "\n".join(lines) + "\n\n}  // namespace policy\n}  // namespace gaussgym\n"


def trace_text(bundle: PolicyBundle) -> str:
    """The golden trace with readings as text: one control step a line, columns of :data:`TRACE_COLUMNS` side by side.

    Args:
        bundle: The checked bundle.

    Raises:
        BundleError: When its trace has no raw readings.
    """
    golden = bundle.golden
    if "raw_joint_pos" not in golden:
        raise BundleError(
            f"{bundle.path}: the golden trace has no readings of the robot; export the policy again"
        )
    steps = len(golden["proprio"])
    rows = np.concatenate(
        [golden[key].reshape(steps, -1).astype(np.float64) for key in TRACE_COLUMNS], axis=1
    )
    return "".join(" ".join(map(repr, row)) + "\n" for row in rows.tolist())


def _terms(bundle: PolicyBundle) -> List[str]:
    entries, scales, first = [], [], 0
    for term in bundle.observation:
        clip = _literal(math.inf if term.clip is None else term.clip)
        entries.append(f"Term{{{json.dumps(term.name)}, {first}, {term.size}, {clip}}}")
        scales += np.broadcast_to(np.asarray(term.scale, dtype=np.float64), (term.size,)).tolist()
        first += term.size
    return [_array("Term", "kTerm", entries), _numbers("kTermScale", scales)]


def _literal(value: float) -> str:
    return "std::numeric_limits<double>::infinity()" if math.isinf(value) else repr(float(value))


def _number(name: str, value: float) -> str:
    return f"constexpr double {name} = {_literal(value)};"


def _numbers(name: str, values: Any) -> str:
    return _array("double", name, map(_literal, np.asarray(values, dtype=np.float64).tolist()))


def _array(kind: str, name: str, literals: Iterable[str]) -> str:
    entries = list(literals)
    return f"constexpr std::array<{kind}, {len(entries)}> {name}{{{{{', '.join(entries)}}}}};"
