"""The networks of a bundle in onnxruntime, their recurrent state, and the replay of the golden trace."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from .bundle import BundleError, PolicyBundle
from .observation import ObservationBuilder
from .robot_io import RobotState

__all__ = ["GOLDEN_TOLERANCE", "Policy", "ReplayReport", "replay_golden"]

GOLDEN_TOLERANCE = 1e-5
"""Largest difference between replayed and recorded actions (torch against onnxruntime over 200 steps: near 1e-7)."""
OBSERVATION_TOLERANCE = 1e-5
"""Largest difference between built and recorded observations (float32 rounding)."""


class Policy:
    """Runs the policy (and its encoder) one control step at a time, on one thread.

    Args:
        bundle: The checked bundle.

    Attributes:
        inference_s: How long the last :meth:`act` took, encoder included [s].

    Raises:
        BundleError: When a network does not open, or has other inputs and outputs than the manifest says.
    """

    def __init__(self, bundle: PolicyBundle) -> None:
        self.inference_s = 0.0
        self._policy = _open_session(bundle.policy_file)
        self._encoder = None if bundle.encoder_file is None else _open_session(bundle.encoder_file)
        proprio, joints = (1, bundle.proprio_size), len(bundle.joint_names)
        self._feeds: Dict[str, np.ndarray] = {}
        inputs: Dict[str, Tuple[int, ...]] = {"proprio": proprio}
        outputs: Dict[str, Tuple[int, ...]] = {"actions": (1, joints)}
        if bundle.camera is not None and self._encoder is not None:
            self._rgb = np.zeros((1, 3, bundle.camera.height, bundle.camera.width), dtype=np.uint8)
            inputs["feature"] = (1, bundle.feature_size)
            _check_io(
                bundle.encoder_file, self._encoder, {"rgb": self._rgb.shape}, {"feature": inputs["feature"]}
            )
            self._feeds["feature"] = np.zeros(inputs["feature"], dtype=np.float32)
        if bundle.recurrent is not None:
            inputs["h_in"] = outputs["h_out"] = (bundle.recurrent.layers, 1, bundle.recurrent.hidden)
            self._feeds["h_in"] = np.zeros(inputs["h_in"], dtype=np.float32)
        _check_io(bundle.policy_file, self._policy, inputs, outputs)
        self._outputs = list(outputs)
        self.reset()

    @property
    def needs_camera(self) -> bool:
        """Whether the policy sees."""
        return self._encoder is not None

    @property
    def hidden(self) -> Optional[np.ndarray]:
        """Recurrent state that the next step takes, ``[L, 1, H]``; None for a feed-forward policy."""
        return self._feeds.get("h_in")

    @property
    def feature(self) -> Optional[np.ndarray]:
        """Encoder's output for the last image, ``[1, F]``; None for a blind policy."""
        return self._feeds.get("feature")

    def resume(self, hidden: np.ndarray, feature: np.ndarray) -> None:
        """Go on in the middle of an episode.

        Args:
            hidden: Recurrent state, any shape of the right size.
            feature: Encoder's output, likewise.
        """
        for name, values in (("h_in", hidden), ("feature", feature)):
            if name in self._feeds:
                self._feeds[name] = values.reshape(self._feeds[name].shape).astype(np.float32)
        self._has_feature = True

    def reset(self) -> None:
        """Begin an episode: hidden state zero, no image seen yet."""
        if "h_in" in self._feeds:
            self._feeds["h_in"] = np.zeros_like(self._feeds["h_in"])
        self._has_feature = False

    def act(self, proprio: np.ndarray, rgb: Optional[np.ndarray] = None) -> np.ndarray:
        """One control step.

        Args:
            proprio: float32 ``[1, P]``.
            rgb: A *new* camera frame, uint8 ``[3, H, W]`` or ``[H, W, 3]`` views transposed to it; None keeps the feature
                of the last one.

        Returns:
            The actions, float32 ``[J]``, not clipped.

        Raises:
            ValueError: When a policy that sees has not been given any image since the reset.
        """
        start_s = time.perf_counter()
        if self._encoder is not None:
            if rgb is not None:
                self._rgb[0] = rgb
                self._feeds["feature"] = self._encoder.run(["feature"], {"rgb": self._rgb})[0]
                self._has_feature = True
            elif not self._has_feature:
                raise ValueError("the policy needs a camera image, none came since the reset")
        self._feeds["proprio"] = proprio
        results = self._policy.run(self._outputs, self._feeds)
        if len(results) == 2:
            self._feeds["h_in"] = results[1]
        self.inference_s = time.perf_counter() - start_s
        return results[0][0]


@dataclass(frozen=True)
class ReplayReport:
    """Outcome of replaying a bundle's golden trace.

    Attributes:
        steps: Number of control steps.
        max_abs_error: Largest difference between replayed and recorded actions; NaN when the networks gave NaN.
        max_abs_observation_error: Same for the observation builder; None when the trace has no raw readings.
        inference_s: Time of each step, encoder included where a new frame came [s], ``[steps]``.
    """

    steps: int
    max_abs_error: float
    max_abs_observation_error: Optional[float]
    inference_s: np.ndarray

    def require_match(self, bundle: PolicyBundle) -> None:
        """Refuse a bundle that this machine would not run as it was trained.

        Args:
            bundle: Named in the error.

        Raises:
            BundleError: When actions or observations are further from the recorded ones than rounding explains.
        """
        off = self.max_abs_observation_error
        for what, error, tolerance in (
            ("actions", self.max_abs_error, GOLDEN_TOLERANCE),
            ("observations", 0.0 if off is None else off, OBSERVATION_TOLERANCE),
        ):
            if not error <= tolerance:  # NaN is a mismatch too
                raise BundleError(
                    f"{bundle.path}: {what} differ from the golden trace by {error:.3g}, at most {tolerance:g} allowed;"
                    " this runtime would not do what was trained: export the policy again"
                )


def replay_golden(bundle: PolicyBundle, policy: Policy, *, observations: bool = True) -> ReplayReport:
    """Feed the recorded observations to the networks, and the recorded readings to the observation builder.

    Args:
        bundle: Gives the trace.
        policy: The bundle's networks.
        observations: Whether to replay the readings as well.
    """
    golden = bundle.golden
    steps = len(golden["proprio"])
    proprio = np.ascontiguousarray(golden["proprio"], dtype=np.float32)
    actions = np.zeros((steps, len(bundle.joint_names)), dtype=np.float32)
    inference_s = np.zeros(steps)
    shown = -1
    for step in range(steps):
        if golden["reset"][step]:
            policy.reset()
            shown = -1
        rgb = None
        if policy.needs_camera and golden["frame"][step] != shown:
            shown = int(golden["frame"][step])
            rgb = golden["rgb"][shown]
        actions[step] = policy.act(proprio[step : step + 1], rgb)
        inference_s[step] = policy.inference_s
    policy.reset()
    error = float(np.abs(actions - golden["actions"]).max())
    return ReplayReport(steps, error, _replay_observations(bundle) if observations else None, inference_s)


def _replay_observations(bundle: PolicyBundle) -> Optional[float]:
    golden = bundle.golden
    if "raw_joint_pos" not in golden:
        return None
    builder = ObservationBuilder(bundle)
    worst = 0.0
    for step in range(len(golden["proprio"])):
        if golden["reset"][step]:
            builder.reset()
        state = RobotState(
            t_s=0.0,
            joint_pos=golden["raw_joint_pos"][step],
            joint_vel=golden["raw_joint_vel"][step],
            quat_wxyz=golden["raw_quat_wxyz"][step],
            ang_vel_b=golden["raw_ang_vel_b"][step],
            command=golden["raw_command"][step],
        )
        worst = max(worst, float(np.abs(builder.build(state)[0] - golden["proprio"][step]).max()))
        np.clip(golden["actions"][step], -bundle.action_clip, bundle.action_clip, out=builder.last_action)
    return worst


def _open_session(path: Optional[Path]) -> Any:
    """An onnxruntime session on one thread, CPU, without busy waiting."""
    import onnxruntime  # here: reading a bundle does not need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (
        Exception
    ) as error:  # onnxruntime's errors share no base class with a name that lasts over versions
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: onnxruntime cannot open it ({reason}); export the policy again") from None


def _check_io(
    path: Optional[Path],
    session: Any,
    inputs: Dict[str, Tuple[int, ...]],
    outputs: Dict[str, Tuple[int, ...]],
) -> None:
    for what, found, expected in (
        ("inputs", session.get_inputs(), inputs),
        ("outputs", session.get_outputs(), outputs),
    ):
        names: List[str] = sorted(entry.name for entry in found)
        if names != sorted(expected):
            raise BundleError(
                f"{path}: {what} are {', '.join(names)}, the manifest asks for {', '.join(sorted(expected))};"
                " export the policy again"
            )
        for entry in found:
            wanted = expected[entry.name]
            # A symbolic dimension (a name instead of a number) takes any size.
            fits = len(entry.shape) == len(wanted) and all(
                not isinstance(size, int) or size == need for size, need in zip(entry.shape, wanted)
            )
            kind = "tensor(uint8)" if entry.name == "rgb" else "tensor(float)"
            if not fits or entry.type != kind:
                raise BundleError(
                    f"{path}: {entry.name!r} is {entry.type} {entry.shape}, the manifest asks for {kind} {list(wanted)};"
                    " export the policy again"
                )
