"""Measured against simulated joint angles as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gaussgym_learn.gap.recording import Recording
from gaussgym_learn.gap.replay import Segments, Traces


def draw_joints(
    path: Path,
    recording: Recording,
    segments: Segments,
    nominal: Traces,
    fitted: Traces,
    *,
    seconds: float = 4.0,
) -> None:
    """One panel a joint: what was measured, and each segment's replay by the nominal and by the fitted simulator.

    Args:
        path: image file.
        recording: measured.
        segments: replayed.
        nominal: by the simulator as it is.
        fitted: with the fitted physics.
        seconds: how much to show, from the first segment on.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = 3
    lines = -(-len(recording.joint_names) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(15, 2.4 * lines), sharex=True, squeeze=False)
    t0 = recording.t_s[segments.first[0]]
    shown = (recording.t_s >= t0) & (recording.t_s <= t0 + seconds)
    pieces = [n for n, row in enumerate(segments.first) if recording.t_s[row] <= t0 + seconds]
    for joint, name in enumerate(recording.joint_names):
        axis = axes[joint // columns, joint % columns]
        axis.plot(
            recording.t_s[shown] - t0,
            recording.joint_pos[shown, joint],
            color="black",
            lw=1,
            label="measured",
        )
        for traces, color, label in (
            (nominal, "tab:red", "nominal simulator"),
            (fitted, "tab:blue", "fitted simulator"),
        ):
            for n in pieces:
                rows = np.concatenate(([segments.first[n]], segments.rows[n]))
                angles = np.concatenate(
                    ([recording.joint_pos[rows[0], joint]], traces.joint_pos[n, :, joint])
                )
                axis.plot(
                    recording.t_s[rows] - t0,
                    angles,
                    color=color,
                    lw=1.2,
                    label=label if n == pieces[0] else None,
                )
        axis.set_title(name, fontsize=9)
        axis.set_ylabel("rad")
    axes[0, 0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("s")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
