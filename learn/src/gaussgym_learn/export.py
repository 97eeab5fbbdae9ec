"""Checkpoint → policy bundle: two ONNX graphs, a manifest, and a golden trace recorded in the environment."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import torch
from gaussgym_deploy.bundle import (
    BundleError,
    CameraSpec,
    LegGeometry,
    ObservationTerm,
    Recurrence,
    write_bundle,
)
from gaussgym_scene.errors import InputError, StageError
from gaussgym_scene.frames import matrix_from_quat_wxyz, quat_wxyz_from_matrix
from gaussgym_scene.scene import Scene
from gaussgym_sim.env_cfg import EnvCfg
from gaussgym_sim.robot import RobotCfg, get_robot
from gaussgym_sim.robots.geoms import load_model
from gaussgym_sim.sensors.camera import CameraCfg, intrinsics, mount_pose
from gaussgym_sim.sensors.observations import ObservationCfg, proprio_terms
from torch import nn

from gaussgym_learn.acting import CheckpointPolicy
from gaussgym_learn.checkpoint import load_checkpoint
from gaussgym_learn.env import GaussgymVecEnv, make_env
from gaussgym_learn.evaluate import evaluation_cfg
from gaussgym_learn.graphs import BlindGraph, PolicyGraph
from gaussgym_learn.models import IMAGE_GROUP, IMAGE_GROUPS, NEW_FRAME_GROUP, VisionRNNModel

OPSET, IR_VERSION = 18, 8
"""Operator set and file format, both of ONNX 1.13: every onnxruntime from 1.14 on opens them, Python 3.8's last one too."""
_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)
JOINT_VEL_LIMIT_RAD_S = 30.0
"""Of robots whose makers publish none (order of magnitude of a small quadruped's); a guard, not a control limit."""


def onnx_bytes(
    graph: nn.Module, inputs: tuple[torch.Tensor, ...], names: tuple[Sequence[str], Sequence[str]]
) -> bytes:
    """A module as one self-contained ONNX file.

    Args:
        graph: in evaluation mode.
        inputs: example inputs; batch and all sizes are fixed to theirs.
        names: of the inputs and of the outputs.
    """
    buffer = io.BytesIO()
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            inputs,
            input_names=list(names[0]),
            output_names=list(names[1]),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        # The exporter stamps the newest format; what opset 18 has, the older one can say as well.
        program.model.ir_version = IR_VERSION  # type: ignore[union-attr]
        program.save(buffer, external_data=False)  # type: ignore[union-attr]
    return buffer.getvalue()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and warns about torchvision, which is not needed."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def policy_graphs(model: nn.Module) -> tuple[bytes, bytes | None, Recurrence | None, int]:
    """ONNX files of an actor.

    Returns:
        (policy.onnx, encoder.onnx or None, size of the memory or None, length of the feature).
    """
    if not isinstance(model, VisionRNNModel):
        graph = BlindGraph(model)  # type: ignore[arg-type]
        return (
            onnx_bytes(graph, graph.get_dummy_inputs(), (graph.input_names, graph.output_names)),
            None,
            None,
            0,
        )
    graph = PolicyGraph(model)
    policy = onnx_bytes(graph, graph.get_dummy_inputs(), (graph.input_names, graph.output_names))
    image = torch.zeros(1, *model.image_shape, dtype=torch.uint8)
    encoder = onnx_bytes(model.encoder_graph(), (image,), (("rgb",), ("feature",)))
    layers, _, hidden = graph.memory_shape
    return policy, encoder, Recurrence(layers, hidden), model.feature_dim


def record_golden(
    policy: CheckpointPolicy, env: GaussgymVecEnv, *, steps: int = 250
) -> dict[str, np.ndarray]:
    """What the torch policy saw and did over consecutive control steps of one environment.

    Args:
        policy: acts.
        env: one environment, noise-free, freshly reset.
        steps: control steps.

    Returns:
        The arrays of `golden.npz` (`gaussgym_deploy.bundle`).
    """
    policy.check(env)
    policy.reset()
    rows: dict[str, list[np.ndarray]] = {}
    frames: list[np.ndarray] = []
    obs, reset = env.get_observations(), True
    for _ in range(steps):
        state = env.sim.state
        actions = policy.act(obs)
        if policy.sees and (reset or not frames or bool(obs[NEW_FRAME_GROUP][0, 0])):
            frames.append(obs[IMAGE_GROUP][0].numpy().copy())
        values = {
            "proprio": obs["proprio"][0],
            "actions": actions[0],
            "raw_joint_pos": state.joint_pos[0],
            "raw_joint_vel": state.joint_vel[0],
            "raw_quat_wxyz": state.root_quat_wxyz[0],
            "raw_ang_vel_b": state.root_ang_vel_b[0],
            "raw_command": env.env.commands.command[0],
        }
        for key, value in values.items():
            rows.setdefault(key, []).append(value.numpy().astype(np.float32).copy())
        rows.setdefault("reset", []).append(np.array(reset))
        if policy.sees:
            rows.setdefault("frame", []).append(np.array(len(frames) - 1))
        obs, _, dones, _ = env.step(actions)
        policy.reset(dones)
        reset = bool(dones[0])
    out = {key: np.stack(values) for key, values in rows.items()}
    if policy.sees:
        out["rgb"] = np.stack(frames)
    return out


def joint_limits(robot: RobotCfg) -> np.ndarray:
    """Lower and upper joint angles of the robot's MJCF `[J, 2]` [rad], in the order of its actions."""
    model = mujoco.MjModel.from_xml_path(str(robot.mjcf))
    return np.array([model.joint(name).range for name in robot.joint_names])


def leg_geometry(robot: RobotCfg) -> list[LegGeometry]:
    """The legs of a robot's MJCF as chains of hinges from the base to each foot, as the bundle states them.

    Raises:
        InputError: a leg with another joint than hinges, or with a joint that the robot does not name.
    """
    model = load_model(robot.mjcf)
    legs = []
    for name, foot in zip(robot.leg_names, robot.foot_geoms, strict=True):
        geom = model.geom(foot)
        chain, body = [], int(model.geom_bodyid[geom.id])
        while int(model.body_parentid[body]) != 0:
            if int(model.body_jntnum[body]) != 1 or int(model.jnt_type[model.body_jntadr[body]]) != _HINGE:
                raise InputError(
                    f"{robot.mjcf}: body {model.body(body).name!r} of leg {name!r} hangs on {int(model.body_jntnum[body])}"
                    " joints, expected one hinge"
                )
            chain.append(body)
            body = int(model.body_parentid[body])
        legs.append(_leg(model, robot, name, foot, chain[::-1]))
    return legs


def _leg(model: mujoco.MjModel, robot: RobotCfg, name: str, foot: str, chain: list[int]) -> LegGeometry:
    joints = [int(model.body_jntadr[body]) for body in chain]
    # A hinge that does not pass through its body's origin: move the origin onto it, and what hangs below back.
    shift = [model.jnt_pos[joint] for joint in joints]
    origins = []
    for i, body in enumerate(chain):
        rotation = matrix_from_quat_wxyz(model.body_quat[body])
        above = shift[i - 1] if i else np.zeros(3)
        origins.append(tuple((model.body_pos[body] + rotation @ shift[i] - above).tolist()))
    named = [model.joint(joint).name for joint in joints]
    if missing := [joint for joint in named if joint not in robot.joint_names]:
        raise InputError(
            f"{robot.mjcf}: leg {name!r} has a joint {missing[0]!r} that the robot does not name"
        )
    return LegGeometry(
        name=name,
        joints=tuple(robot.joint_names.index(joint) for joint in named),
        origins_m=tuple(origins),
        quats_wxyz=tuple(tuple(model.body_quat[body].tolist()) for body in chain),
        axes=tuple(tuple(model.jnt_axis[joint].tolist()) for joint in joints),
        foot_m=tuple((model.geom(foot).pos - shift[-1]).tolist()),
        foot_radius_m=robot.foot_radius_m,
    )


def camera_spec(robot: RobotCfg, camera: CameraCfg) -> CameraSpec:
    """Size, intrinsics and mount of a robot's camera, as the bundle states them."""
    k, mount = intrinsics(camera).tolist(), mount_pose(robot, camera).double().numpy()
    return CameraSpec(
        width=camera.width,
        height=camera.height,
        fx=k[0][0],
        fy=k[1][1],
        cx=k[0][2],
        cy=k[1][2],
        position_b_m=tuple(mount[:3, 3].tolist()),  # type: ignore[arg-type]
        quat_b_c_wxyz=tuple(quat_wxyz_from_matrix(mount[:3, :3]).tolist()),  # type: ignore[arg-type]
    )


def trained_cfg(fields: Mapping[str, Any], cfg: EnvCfg) -> EnvCfg:
    """An environment's settings, with those that a bundle states as the policy was trained with them.

    Args:
        fields: of the checkpoint's manifest; ``environment`` has the settings of its training.
        cfg: of the environment in which the trace is recorded.

    Raises:
        InputError: a setting that this version does not have.
    """
    trained = fields["environment"]
    changes: dict[str, Any] = {key: trained[key] for key in ("action_clip", "substeps") if key in trained}
    try:
        for key, kind in (("observations", ObservationCfg), ("camera", CameraCfg)):
            given = trained.get(key, {}).items()
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given}
            changes[key] = kind(**values)
    except TypeError as error:
        raise InputError(
            f"the checkpoint's environment has settings that this version does not: {error}"
        ) from None
    return replace(cfg, **changes)


def require_deployable(
    fields: Mapping[str, Any], groups: Sequence[str], robot: RobotCfg, where: object
) -> None:
    """Refuse a policy that no robot could feed or follow.

    Args:
        fields: of the checkpoint's manifest.
        groups: observation groups that its actor reads.
        robot: that it drives.
        where: for errors.

    Raises:
        InputError: it reads what no robot measures, or its actions are no joint targets.
    """
    unmeasured = [g for g in groups if g not in ("proprio", *IMAGE_GROUPS)]
    if unmeasured == ["gait"]:
        raise InputError(
            f"{where}: reads gait, the phase of a clock that runs in the simulator; train without EnvCfg.gait_hz to deploy it"
        )
    if unmeasured:
        raise InputError(
            f"{where}: reads {', '.join(unmeasured)}, which no robot measures; distill it to a student first"
        )
    if "depth" in groups:
        raise InputError(
            f"{where}: reads depth; a bundle's camera delivers rgb, train a policy that reads proprio and rgb to deploy it"
        )
    if "proprio" not in groups:
        raise InputError(f"{where}: reads {', '.join(groups)} only, expected proprio among them")
    actions = int(fields["num_actions"])
    if actions != robot.num_joints:
        raise InputError(
            f"{where}: gives {actions} actions, expected {robot.num_joints}, a target for each joint of {robot.name}; a policy "
            "that gives commands (navigate) cannot be a bundle: export the walker that carries them out"
        )


def robot_fields(robot: RobotCfg, cfg: EnvCfg) -> dict[str, Any]:
    """What a bundle states of a robot and of how its policy reads and moves it; arguments of `write_bundle`.

    Args:
        robot: which.
        cfg: the environment, as trained.
    """
    terms = proprio_terms(robot, cfg.observations)
    return {
        "robot": robot.name,
        "joint_names": robot.joint_names,
        "observation": [ObservationTerm(t.name, t.size, t.scale) for t in terms],
        "default_joint_pos": robot.default_joint_pos,
        "kp": robot.kp,
        "kd": robot.kd,
        "action_scale": robot.action_scale,
        "torque_limit": robot.torque_limit_nm,
        "joint_pos_limit": joint_limits(robot),
        "joint_vel_limit": robot.speed_limit_rad_s or JOINT_VEL_LIMIT_RAD_S,
        "action_clip": cfg.action_clip,
        "control_hz": 1.0 / cfg.control_s,
    }


def provenance(fields: Mapping[str, Any], env: GaussgymVecEnv) -> dict[str, Any]:
    """Where a policy comes from, for the bundle's manifest.

    Args:
        fields: of the checkpoint's manifest.
        env: in which the trace was recorded.
    """
    environment = json.dumps(fields["environment"], sort_keys=True).encode()
    kept = {
        "task": fields["environment"].get("task"),
        "recipe": fields["recipe"]["name"],
        "iteration": fields["iteration"],
        "control_steps": fields.get("steps"),
        "train_seconds": fields.get("train_seconds"),
        "seed": fields.get("seed"),
        "scenes": fields["scenes"],
        "teacher": fields.get("teacher"),
        "initialized_from": fields.get("initialized_from"),
        "model_sha256": fields["files"][fields["model"]]["sha256"],
        "environment_sha256": hashlib.sha256(environment).hexdigest(),
        "environment": fields["environment"],
        "command": fields["provenance"].get("command"),
        "tools": fields["provenance"]["tools"],
        "trace_scenes": env.scene_hashes,
    }
    return {key: value for key, value in kept.items() if value is not None}


def export_policy(
    checkpoint: Path | str,
    output: Path | str,
    scene: Scene | Path | str,
    *,
    renderer: str = "auto",
    steps: int = 250,
    seed: int = 0,
) -> Path:
    """Export a checkpoint's policy.

    Args:
        checkpoint: run folder.
        output: bundle folder; replaced as a whole.
        scene: where the golden trace is recorded.
        renderer: backend of the camera.
        steps: length of the golden trace [control steps].
        seed: of the trace's start.

    Returns:
        The path of `policy.json`.

    Raises:
        InputError: a policy that reads what a robot does not measure (a teacher), or that does not move joints.
        StageError: the exported networks differ from torch's.
    """
    loaded = load_checkpoint(checkpoint)
    policy = CheckpointPolicy(loaded)
    robot = get_robot(loaded.robot)
    require_deployable(loaded.fields, policy.network.actor_groups, robot, loaded.directory)
    cfg = trained_cfg(loaded.fields, evaluation_cfg("goal"))
    env = make_env(
        "goal", scene, 1, robot=robot.name, renderer=renderer if policy.sees else None, seed=seed, cfg=cfg
    )
    golden = record_golden(policy, env, steps=steps)
    policy_onnx, encoder_onnx, recurrent, feature_size = policy_graphs(policy.model)
    try:
        return write_bundle(
            output,
            **robot_fields(robot, cfg),
            policy_onnx=policy_onnx,
            encoder_onnx=encoder_onnx,
            golden=golden,
            camera=camera_spec(robot, cfg.camera) if policy.sees else None,
            feature_size=feature_size,
            recurrent=recurrent,
            camera_hz=env.camera_hz if policy.sees else 10.0,
            training=provenance(loaded.fields, env),
            legs=leg_geometry(robot),
        )
    except BundleError as error:
        raise StageError(str(error)) from None
