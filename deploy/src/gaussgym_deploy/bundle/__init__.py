"""The policy bundle: everything a robot needs to run a policy as it was trained, in one folder that checks itself.

::

    policy.json     the manifest (written last): what the numbers mean, sha256 and size of every other file
    policy.onnx     proprio [1,P] f32, (feature [1,F] f32), (h_in [L,1,H] f32)  ->  actions [1,J], (h_out [L,1,H])
    encoder.onnx    rgb uint8 [1,3,H,W]  ->  feature [1,F]                      (only of policies that see)
    golden.npz      what the trainer's own code computed, replayed wherever the bundle is about to be used

``golden.npz`` holds T consecutive control steps: ``proprio`` [T,P] float32 (scaled terms, not normalized), ``reset`` [T]
bool (hidden state and last action are zero before this step), ``actions`` [T,J] float32 as the network gave them (not
clipped); with a camera ``rgb`` [K,3,H,W] uint8 (one per *camera* frame) and ``frame`` [T] int (which of them is current).
Optional, and then the observation builder is checked too: the readings that ``proprio`` was computed from,
``raw_joint_pos`` [T,J], ``raw_joint_vel`` [T,J], ``raw_quat_wxyz`` [T,4], ``raw_ang_vel_b`` [T,3], ``raw_command`` [T,3].

The manifest's keys carry their units. Arrays are per joint, in the order of ``joint_names``:
``target = default_joint_pos_rad + action_scale_rad * clip(action, -action_clip, action_clip)``.
"""

from __future__ import annotations

from .contents import BundleError, CameraSpec, LegGeometry, ObservationTerm, PolicyBundle, Recurrence
from .writing import write_bundle

__all__ = [
    "BundleError",
    "CameraSpec",
    "LegGeometry",
    "ObservationTerm",
    "PolicyBundle",
    "Recurrence",
    "write_bundle",
]
