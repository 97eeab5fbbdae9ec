"""An envelope as an SVG file: success over every quantity, with intervals and the range that works."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from .sweep import MARGIN, NOMINAL

__all__ = ["envelope_svg", "write_svg"]

PANEL_W, PANEL_H, COLUMNS = 330, 210, 2
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 30, 36
INK, FAINT, BAND, GOOD, LINE = "#222222", "#bbbbbb", "#9ecae1", "#e5f5e0", "#08519c"

UNITS = {
    "state_latency_ms": "latency of joint and IMU readings [ms]",
    "command_delay_ms": "delay of commands [ms]",
    "camera_hz": "camera rate [1/s]",
    "camera_latency_ms": "latency of camera frames [ms]",
    "noise": "sensor noise [multiples of the training's]",
    "friction": "friction coefficient",
    "payload_kg": "payload [kg]",
    "motor_strength": "motor strength [1]",
}


def write_svg(path: Path, report: Mapping[str, Any], title: str) -> Path:
    """Write the plot of a report; returns the path."""
    path.write_text(envelope_svg(report, title), encoding="utf-8")
    return path


def envelope_svg(report: Mapping[str, Any], title: str) -> str:
    """The plot as text.

    Args:
        report: As :func:`gaussgym_deploy.envelope.measure_envelope` returns it.
        title: Headline.
    """
    names = list(report["envelope"])
    rows = math.ceil(len(names) / COLUMNS)
    width, height = COLUMNS * PANEL_W, 34 + rows * PANEL_H
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(12, 21, title, size=14),
    ]
    for index, name in enumerate(names):
        x, y = PANEL_W * (index % COLUMNS), 34 + PANEL_H * (index // COLUMNS)
        parts.append(f'<g transform="translate({x},{y})">')
        parts += _panel(
            name, report["envelope"][name], _line(report["points"], name, report["envelope"][name])
        )
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _line(
    points: Sequence[Mapping[str, Any]], name: str, envelope: Mapping[str, Any]
) -> List[Dict[str, Any]]:
    """Points of one quantity with the nominal one, by value."""
    line = [dict(p) for p in points if p["parameter"] == name]
    line += [dict(p, value=envelope["nominal"]) for p in points if p["parameter"] == NOMINAL]
    return sorted(line, key=lambda p: p["value"])


def _panel(name: str, envelope: Mapping[str, Any], line: List[Dict[str, Any]]) -> List[str]:
    values = [p["value"] for p in line]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def sx(value: float) -> float:
        return LEFT + (value - low) / span * (PANEL_W - LEFT - RIGHT)

    def sy(share: float) -> float:
        return TOP + (1 - share) * (PANEL_H - TOP - BOTTOM)

    first, last = (sx(value) for value in envelope["works"])
    least = max(envelope["nominal_success"] - MARGIN, 0.0)
    parts = [
        f'<rect x="{first:.1f}" y="{sy(1):.1f}" width="{max(last - first, 1):.1f}" height="{sy(0) - sy(1):.1f}" fill="{GOOD}"/>',
        _text(LEFT, 18, UNITS.get(name, name)),
    ]
    for share in (0.0, 0.5, 1.0):
        parts.append(_segment(LEFT, sy(share), PANEL_W - RIGHT, sy(share), FAINT))
        parts.append(_text(LEFT - 6, sy(share) + 4, f"{share:.0%}", anchor="end"))
    parts += _curve(line, sx, sy)
    parts.append(_segment(LEFT, sy(least), PANEL_W - RIGHT, sy(least), INK, dash="3 3"))
    parts.append(_segment(sx(envelope["nominal"]), sy(1), sx(envelope["nominal"]), sy(0), INK, dash="1 3"))
    return parts + _value_labels(values, sx, sy(0))


def _curve(
    line: List[Dict[str, Any]], sx: Callable[[float], float], sy: Callable[[float], float]
) -> List[str]:
    """Interval band, line and dots."""
    upper = [(sx(p["value"]), sy(p["success_wilson95"][1])) for p in line]
    lower = [(sx(p["value"]), sy(p["success_wilson95"][0])) for p in line]
    middle = [(sx(p["value"]), sy(p["success"])) for p in line]
    return [
        f'<polygon points="{_joined(upper + lower[::-1])}" fill="{BAND}" fill-opacity="0.5"/>',
        f'<polyline points="{_joined(middle)}" fill="none" stroke="{LINE}" stroke-width="1.6"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.8" fill="{LINE}"/>' for x, y in middle),
    ]


def _value_labels(values: Sequence[float], sx: Callable[[float], float], y: float) -> List[str]:
    """Measured values under the axis, as far as there is room."""
    parts: List[str] = []
    free_from = -1e9
    for value in values:
        text = f"{value:g}"
        half = 3.2 * len(text) + 2
        if sx(value) - half >= free_from:
            parts.append(_text(sx(value), y + 15, text, anchor="middle"))
            free_from = sx(value) + half
    return parts


def _joined(points: Sequence[Tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _segment(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{dashed}/>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 11) -> str:
    safe = words.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{safe}</text>'
