"""What tests of the runtime need: small real bundles, a clock that obeys, a robot that can be broken, a toy robot process.

Bundles are built with the ``onnx`` package, which the runtime does not need: a random recurrent policy, with or without
eyes, and its golden trace from an independent numpy implementation.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

from .bundle import CameraSpec, ObservationTerm, Recurrence, write_bundle
from .robot_io import BenchRobot, JointCommand, RobotState
from .shared_memory import EpisodeResult, ResetRequest, SharedMemoryServer

__all__ = [
    "JOINT_NAMES",
    "OBSERVATION",
    "FakeClock",
    "FaultyRobot",
    "make_bundle",
    "serve_toy_robot",
    "standing_state",
    "tilted",
]

JOINT_NAMES = tuple(
    f"{leg}_{part}_joint" for leg in ("FR", "FL", "RR", "RL") for part in ("hip", "thigh", "calf")
)
OBSERVATION = (
    ObservationTerm("ang_vel_b", 3, 0.25),
    ObservationTerm("gravity_b", 3, 1.0),
    ObservationTerm("command", 3, (2.0, 2.0, 0.25)),
    ObservationTerm("joint_pos_offset", 12, 1.0),
    ObservationTerm("joint_vel", 12, 0.05, 5.0),
    ObservationTerm("last_action", 12, 1.0),
)
DEFAULT_POSE = np.tile([0.1, 0.8, -1.5], 4)
POSITION_LIMIT = np.tile([[-0.86, 0.86], [-0.69, 4.5], [-2.82, -0.89]], (4, 1))
HIDDEN, FEATURE, WIDTH, HEIGHT = 16, 8, 12, 8


class FakeClock:
    """Seconds that pass only when somebody sleeps.

    Attributes:
        now_s: The time [s].
        oversleep_s: Every sleep takes this much longer [s].
    """

    def __init__(self) -> None:
        self.now_s = 100.0
        self.oversleep_s = 0.0
        self._others: List[_Other] = []

    def __call__(self) -> float:
        """The time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass; what :meth:`every` registered happens on its way."""
        end_s = self.now_s + seconds + self.oversleep_s
        while self._others:
            other = min(self._others, key=lambda other: other.due_s)
            if other.due_s > end_s:
                break
            self.now_s = max(self.now_s, other.due_s)
            other.due_s += other.period_s
            other.function(self.now_s)
        self.now_s = max(self.now_s, end_s)

    def every(self, period_s: float, function: Callable[[float], None]) -> None:
        """Call a function of the time again and again while others sleep: another process, such as a supervisor.

        Args:
            period_s: [s].
            function: Called with the time [s].
        """
        self._others.append(_Other(self.now_s + period_s, period_s, function))


@dataclass
class _Other:
    due_s: float
    period_s: float
    function: Callable[[float], None]


class FaultyRobot:
    """A bench robot on a fake clock that records what it is sent, and breaks on demand.

    Attributes:
        commands: Copies of all commands: time [s], q, kp, kd.
        spoil: Called with every state before it is handed out; change it to break something. Raise to break the link.
        closed: Whether the link was closed.
    """

    def __init__(self, clock: FakeClock, *, vision: bool = True) -> None:
        self.commands: List[Tuple[float, np.ndarray, np.ndarray, np.ndarray]] = []
        self.spoil: Callable[[RobotState], None] = lambda state: None
        self.closed = False
        self._clock = clock
        self._bench = BenchRobot(
            start_joint_pos=DEFAULT_POSE + 0.1,
            camera_size_wh=(WIDTH, HEIGHT) if vision else None,
            clock=clock,
        )

    def read(self) -> RobotState:
        """A private copy of the bench robot's state, spoiled."""
        state = self._bench.read()
        fields: Dict[str, Any] = {
            name: value.copy() if isinstance(value, np.ndarray) else value
            for name, value in vars(state).items()
        }
        copy = RobotState(**fields)
        self.spoil(copy)
        return copy

    def write(self, command: JointCommand) -> None:
        """Record and pass on."""
        self.commands.append((self._clock(), command.q.copy(), command.kp.copy(), command.kd.copy()))
        self._bench.write(command)

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def standing_state() -> RobotState:
    """A robot at rest in the default pose, with a grey image, at time 0."""
    state = RobotState.zeros(len(JOINT_NAMES))
    state.joint_pos[:] = DEFAULT_POSE
    state.rgb = np.full((HEIGHT, WIDTH, 3), 90, dtype=np.uint8)
    state.rgb_t_s = 0.0
    return state


def tilted(angle_rad: float, axis: int) -> np.ndarray:
    """The attitude after a turn about a base axis.

    Args:
        angle_rad: [rad].
        axis: 0, 1, 2 for x, y, z.

    Returns:
        Unit quaternion wxyz, ``[4]``.
    """
    quat_wxyz = np.zeros(4)
    quat_wxyz[0], quat_wxyz[1 + axis] = np.cos(angle_rad / 2), np.sin(angle_rad / 2)
    return quat_wxyz


def serve_toy_robot(
    name: str,
    *,
    lockstep: bool = True,
    episode_steps: int = 20,
    num_starts: int = 0,
    die_at_step: int = -1,
    **description: Any,
) -> None:
    """A robot process: the bench robot behind shared memory, until the runtime closes the link.

    Episode ``i`` succeeds, falls or times out in turn (``i % 3``), after ``episode_steps`` commands.

    Args:
        name: Name of the shared memory.
        lockstep: Whether it waits for commands.
        episode_steps: Commands per episode.
        num_starts: What it says of its starts.
        die_at_step: It kills itself with SIGKILL at this command of the first episode; -1: never.
        description: More arguments of :class:`SharedMemoryServer`.
    """
    clock = FakeClock()
    outcomes = (EpisodeResult.SUCCESS, EpisodeResult.FELL, EpisodeResult.TIMEOUT)
    about: Dict[str, Any] = {
        "robot": "bench",
        "joint_names": JOINT_NAMES,
        "camera_size_wh": (WIDTH, HEIGHT),
        **description,
    }
    with SharedMemoryServer(name, lockstep=lockstep, num_starts=num_starts, **about) as server:
        server.wait_for_runtime(timeout_s=60.0)
        robot, step, t_s, started_s = BenchRobot(clock=clock), 0, 0.0, 0.0
        while True:
            request = server.wait_request(timeout_s=60.0) if lockstep else server.latest_request()
            if request is None and (lockstep or server.runtime_gone):
                return
            if isinstance(request, ResetRequest):
                robot = BenchRobot(
                    start_joint_pos=DEFAULT_POSE, camera_size_wh=about["camera_size_wh"], clock=clock
                )
                step, started_s = 0, t_s
            elif request is not None:
                step += 1
                robot.write(request)
            if step == die_at_step:
                os.kill(os.getpid(), signal.SIGKILL)
            if not lockstep:
                time.sleep(0.02)
            clock.sleep(0.02)
            state = robot.read()
            t_s = started_s + state.t_s  # grows over resets
            shown = RobotState(
                t_s, state.joint_pos, state.joint_vel, state.quat_wxyz, state.ang_vel_b, state.command,
                state.rgb, started_s + state.rgb_t_s,
            )  # fmt: skip
            start_index = max(server.start_index, 0)
            server.publish(
                shown, result=outcomes[start_index % 3] if step >= episode_steps else EpisodeResult.RUNNING
            )


def make_bundle(
    directory: Path,
    *,
    seed: int = 0,
    vision: bool = True,
    steps: int = 60,
    gain: float = 0.05,
    **changes: Any,
) -> Path:
    """Write a bundle with random weights and a golden trace computed by an independent numpy implementation.

    Args:
        directory: Where to.
        seed: Of weights and trace.
        vision: With an encoder; without, the policy is blind but still recurrent.
        steps: Length of the golden trace.
        gain: Size of the weights of the last layer, hence of the actions.
        changes: Arguments of :func:`write_bundle` to replace.

    Returns:
        ``directory``.
    """
    generator = np.random.default_rng(seed)
    weights = _weights(generator, vision, gain)
    golden = _golden(generator, weights, vision, steps, changes.get("action_clip"))
    arguments: Dict[str, Any] = {
        "robot": "bench",
        "joint_names": JOINT_NAMES,
        "observation": OBSERVATION,
        "default_joint_pos": DEFAULT_POSE,
        "kp": 20.0,
        "kd": 0.5,
        "action_scale": 0.25,
        "torque_limit": 23.7,
        "joint_pos_limit": POSITION_LIMIT,
        "joint_vel_limit": 30.0,
        "policy_onnx": policy_onnx(weights),
        "golden": golden,
        "recurrent": Recurrence(1, HIDDEN),
        "training": {"task": "test", "seed": seed},
    }
    if vision:
        arguments["encoder_onnx"] = encoder_onnx(weights)
        arguments["feature_size"] = FEATURE
        arguments["camera"] = CameraSpec(
            WIDTH, HEIGHT, 10.0, 10.0, 6.0, 4.0, (0.28, 0.0, 0.05), (0.5, -0.5, 0.5, -0.5)
        )
    arguments.update(changes)
    write_bundle(directory, **arguments)
    return Path(directory)


def _weights(generator: np.random.Generator, vision: bool, gain: float) -> Dict[str, np.ndarray]:
    size = sum(term.size for term in OBSERVATION) + (FEATURE if vision else 0)

    def normal(*shape: int) -> np.ndarray:
        return generator.normal(0.0, 0.3, shape).astype(np.float32)

    weights = {
        "w_gates": normal(1, 3 * HIDDEN, size),
        "r_gates": normal(1, 3 * HIDDEN, HIDDEN),
        "b_gates": normal(1, 6 * HIDDEN),
        "w_out": (gain * normal(HIDDEN, len(JOINT_NAMES)) / 0.3).astype(np.float32),
    }
    if vision:
        weights["w_image"] = (normal(3 * HEIGHT * WIDTH, FEATURE) / 8.0).astype(np.float32)
    return weights


def policy_onnx(weights: Dict[str, np.ndarray], *, actions_name: str = "actions") -> bytes:
    """``actions = GRU([proprio, feature], h_in) @ w_out`` as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = sum(term.size for term in OBSERVATION)
    vision = "w_image" in weights
    state = (1, 1, HIDDEN)
    inputs = [helper.make_tensor_value_info("proprio", TensorProto.FLOAT, (1, size))]
    if vision:
        inputs.append(helper.make_tensor_value_info("feature", TensorProto.FLOAT, (1, FEATURE)))
    inputs.append(helper.make_tensor_value_info("h_in", TensorProto.FLOAT, state))
    outputs = [
        helper.make_tensor_value_info(actions_name, TensorProto.FLOAT, (1, len(JOINT_NAMES))),
        helper.make_tensor_value_info("h_out", TensorProto.FLOAT, state),
    ]
    joined = ["proprio", "feature"] if vision else ["proprio"]
    nodes = [
        helper.make_node("Concat", joined, ["x"], axis=1),
        helper.make_node("Unsqueeze", ["x", "zero"], ["x_sequence"]),
        helper.make_node(
            "GRU",
            ["x_sequence", "w_gates", "r_gates", "b_gates", "", "h_in"],
            ["", "h_out"],
            hidden_size=HIDDEN,
            linear_before_reset=1,
        ),
        helper.make_node("Squeeze", ["h_out", "zero"], ["h_flat"]),
        helper.make_node("MatMul", ["h_flat", "w_out"], [actions_name]),
    ]
    tensors = [
        numpy_helper.from_array(weights[key], key) for key in ("w_gates", "r_gates", "b_gates", "w_out")
    ]
    tensors.append(numpy_helper.from_array(np.array([0], dtype=np.int64), "zero"))
    return _serialize(onnx, helper.make_graph(nodes, "policy", inputs, outputs, tensors))


def encoder_onnx(weights: Dict[str, np.ndarray]) -> bytes:
    """``feature = (rgb / 255) @ w_image`` as an ONNX file."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["rgb"], ["rgb_f"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["rgb_f", "white"], ["unit"]),
        helper.make_node("Flatten", ["unit"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "w_image"], ["feature"]),
    ]
    tensors = [
        numpy_helper.from_array(weights["w_image"], "w_image"),
        numpy_helper.from_array(np.array(255.0, dtype=np.float32), "white"),
    ]
    inputs = [helper.make_tensor_value_info("rgb", TensorProto.UINT8, (1, 3, HEIGHT, WIDTH))]
    outputs = [helper.make_tensor_value_info("feature", TensorProto.FLOAT, (1, FEATURE))]
    return _serialize(onnx, helper.make_graph(nodes, "encoder", inputs, outputs, tensors))


def _serialize(onnx: Any, graph: Any) -> bytes:
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _golden(
    generator: np.random.Generator,
    weights: Dict[str, np.ndarray],
    vision: bool,
    steps: int,
    action_clip: Optional[float],
) -> Dict[str, np.ndarray]:
    """Random readings, and what a policy written in numpy makes of them."""
    raw = {
        "raw_joint_pos": DEFAULT_POSE + generator.normal(0.0, 0.1, (steps, 12)),
        "raw_joint_vel": generator.normal(0.0, 1.0, (steps, 12)),
        "raw_quat_wxyz": np.array([1.0, 0.0, 0.0, 0.0]) + generator.normal(0.0, 0.2, (steps, 4)),
        "raw_ang_vel_b": generator.normal(0.0, 1.0, (steps, 3)),
        "raw_command": generator.normal(0.0, 0.5, (steps, 3)),
    }
    raw["raw_quat_wxyz"] /= np.linalg.norm(raw["raw_quat_wxyz"], axis=1, keepdims=True)
    reset = np.zeros(steps, dtype=bool)
    reset[[0, steps // 2]] = True
    frame = np.arange(steps) // 5
    rgb = generator.integers(0, 256, (int(frame[-1]) + 1, 3, HEIGHT, WIDTH), dtype=np.uint8)
    proprio = np.zeros((steps, sum(term.size for term in OBSERVATION)), dtype=np.float32)
    actions = np.zeros((steps, 12), dtype=np.float32)
    hidden, last_action = np.zeros(HIDDEN), np.zeros(12)
    limit = np.inf if action_clip is None else action_clip
    for step in range(steps):
        if reset[step]:
            hidden, last_action = np.zeros(HIDDEN), np.zeros(12)
        gravity = _rotate_inverse(raw["raw_quat_wxyz"][step], np.array([0.0, 0.0, -1.0]))
        proprio[step] = np.concatenate(
            [
                raw["raw_ang_vel_b"][step] * 0.25,
                gravity,
                raw["raw_command"][step] * [2.0, 2.0, 0.25],
                raw["raw_joint_pos"][step] - DEFAULT_POSE,
                np.clip(raw["raw_joint_vel"][step] * 0.05, -5.0, 5.0),
                last_action,
            ]
        )
        x = proprio[step].astype(np.float64)
        if vision:
            x = np.concatenate(
                [x, rgb[frame[step]].reshape(-1) / 255.0 @ weights["w_image"].astype(np.float64)]
            )
        hidden = _gru(x, hidden, weights)
        actions[step] = hidden @ weights["w_out"]
        last_action = np.clip(actions[step], -limit, limit)
    golden = {"proprio": proprio, "reset": reset, "actions": actions, **raw}
    if vision:
        golden.update(rgb=rgb, frame=frame)
    return golden


def _rotate_inverse(quat_wxyz: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """World vector in base axes, by cross products (the builder under test uses matrix entries)."""
    w, axis = quat_wxyz[0], -quat_wxyz[1:]
    twice = 2.0 * np.cross(axis, vector)
    return vector + w * twice + np.cross(axis, twice)


def _gru(x: np.ndarray, hidden: np.ndarray, weights: Dict[str, np.ndarray]) -> np.ndarray:
    """The ONNX GRU cell with ``linear_before_reset``, gates in the order update, reset, hidden."""
    from_x = weights["w_gates"][0].astype(np.float64) @ x + weights["b_gates"][0, : 3 * HIDDEN]
    from_h = weights["r_gates"][0].astype(np.float64) @ hidden + weights["b_gates"][0, 3 * HIDDEN :]
    update, forget = _split(_sigmoid(from_x[: 2 * HIDDEN] + from_h[: 2 * HIDDEN]))
    candidate = np.tanh(from_x[2 * HIDDEN :] + forget * from_h[2 * HIDDEN :])
    return (1.0 - update) * candidate + update * hidden


def _split(gates: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    return gates[:HIDDEN], gates[HIDDEN:]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))
