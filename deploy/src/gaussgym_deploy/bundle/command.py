"""Commands about a bundle itself: check it, print its schema, describe it for other stacks."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Optional

from ..reporting import counts, write_json
from .checks import CheckReport, check_bundle
from .contents import PolicyBundle
from .describe import cpp_header, trace_text
from .schema import SCHEMA_FILE

__all__ = ["check", "describe", "schema"]


def check(bundle: Path, /, *, robot: Optional[str] = None, json: Optional[Path] = None) -> Optional[Path]:
    """Check a policy bundle: schema, hashes, shapes, networks, golden trace, time per step.

    Args:
        bundle: Folder of the bundle.
        robot: Robot that it is meant for: a name, or the file of its description (joint order, limits, camera). A bundle that
            does not fit it is refused.
        json: File for the numbers, written also when the bundle is refused.
    """
    report = check_bundle(bundle, robot=robot)
    _show(report)
    written = write_json(json, asdict(report))
    report.require_usable()
    return written


def schema() -> None:
    """Print the JSON Schema of policy.json."""
    sys.stdout.write(SCHEMA_FILE.read_text(encoding="utf-8"))


def describe(
    bundle: Path, /, *, output: Path = Path("policy_description.h"), trace: Optional[Path] = None
) -> Optional[Path]:
    """Write a bundle's manifest as a C++17 header for stacks that are not Python (see deploy/cpp).

    Args:
        bundle: Folder of the bundle.
        output: The header.
        trace: Also write the golden trace here, as text: one control step a line.
    """
    loaded = PolicyBundle.load(bundle)
    texts = {output: cpp_header(loaded)}
    if trace is not None:
        texts[trace] = trace_text(loaded)
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return output


def _show(report: CheckReport) -> None:
    if not report.joints:  # not even the manifest could be read
        return
    eyes = "blind" if report.camera is None else f"camera {report.camera} px"
    print(f"robot {report.robot}, {report.joints} joints, {report.proprio_size} values, {eyes}")
    for name, versions in report.onnx.items():
        print(f"{name}: {counts(versions)}")
    if report.golden_steps:
        error, off = report.golden_max_abs_error, report.golden_max_abs_observation_error
        print(f"golden trace: {report.golden_steps} steps, onnxruntime {report.onnxruntime}")
        print(
            f"golden trace: max abs error of actions {'not a number' if error is None else format(error, '.3g')}"
        )
        print(
            f"golden trace: max abs error of observations {'not recorded' if off is None else format(off, '.3g')}"
        )
        print(f"inference [ms]: {counts(report.inference_ms)}; control period {report.control_period_ms:.1f}")
