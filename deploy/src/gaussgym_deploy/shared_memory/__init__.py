"""A robot link over POSIX shared memory, both ends: :class:`SharedMemoryServer` (the robot process, usually a
simulator) and :class:`SharedMemoryRobot` (the runtime's :class:`~gaussgym_deploy.robot_io.RobotIO`).

The robot process::

    with SharedMemoryServer(name, robot="go1", joint_names=names, control_dt_s=0.02, camera_size_wh=(84, 48),
                            num_starts=256, info={"scene": "street"}) as server:
        server.wait_for_runtime(timeout_s=60.0)
        while True:
            request = server.wait_request(timeout_s=60.0)        # blocks: no command, no physics (lockstep)
            if request is None:                                  # the runtime closed the link: a normal end
                break
            if isinstance(request, ResetRequest):
                put_robot_at(request.start_index)                # and render a first camera frame
                server.publish(state)                            # result is RUNNING
            else:                                                # a JointCommand: arrays valid until the next request
                step_physics_for_one_control_period(request.q, request.kp, request.kd)   # PD at *every* substep
                server.publish(state, result=EpisodeResult.RUNNING)  # or SUCCESS, FELL, TIMEOUT

Rules of the conversation in lockstep:

1. The runtime speaks first, with a reset. The robot publishes exactly one state per request, and nothing in between.
2. ``RobotState.rgb`` is uint8 ``[H, W, 3]``; put the same array and ``rgb_t_s`` again between camera frames (the frame
   crosses only when ``rgb_t_s`` changes). ``t_s`` is simulated time and must grow with every state, also over resets.
3. ``command`` comes from the robot's side (a path follower, an operator).
4. Once a result other than RUNNING is published, the runtime answers with a reset or closes. A joint command that
   arrives nevertheless need not be simulated, but must be answered (publish the last state and the same result).

sim2sim starts the robot process as (:func:`gaussgym_deploy.sim2sim.robot_command`)
``gaussgym-learn robot --scene DIR --shm NAME --bundle DIR --lockstep|--no-lockstep [--starts FILE]``: robot, gains, camera size,
intrinsics and mount are those of the bundle, and what is announced here is compared with it.

Free-running (``lockstep=False``): the server publishes at its own pace, and takes ``latest_request()``, which never blocks.

Wire format (version 2, little-endian, native alignment 8; ``messages.message_dtypes`` lists the fields)::

    0     magic b"GGROBOT1", version u32, length of the description u32, server pid i64, runtime pid i64,
          server closed u32, runtime closed u32
    64    description: JSON, UTF-8 (robot, joint_names, control_dt_s, camera_size_wh, lockstep, num_starts, info)
    4096  state message     (robot → runtime)
    ...   command message   (runtime → robot)
    ...   image message     (robot → runtime)

Version 2 carries what robots say beyond version 1 (accelerometer, torque, temperature, battery, odometry, remote control,
rejected states, rival writers, round trip), a supervisor's latched fault, and the time at which a command was sent.

Each message has one writer and is ``number u64, crc u32, 0 u32, payload``: the number grows by one per message and is
what the reader polls; the CRC-32 over number and payload shows a copy taken in the middle of a write (or, on machines
that reorder stores, one whose payload is not visible yet), which the reader takes again. No locks: a killed peer
leaves nothing locked.

Nothing is left behind either. The segment's name is removed as soon as the runtime has attached, so that the memory
goes with the last process that maps it, however that ends; until then it belongs to the server (and to Python's
resource tracker, which survives a kill of the server). An attached runtime never registers with its own
tracker: before Python 3.13 that would remove the segment under the server when the runtime exits.
"""

from __future__ import annotations

from .messages import EpisodeResult, LinkDescription, ResetRequest
from .robot import SharedMemoryRobot
from .server import SharedMemoryServer

__all__ = ["EpisodeResult", "LinkDescription", "ResetRequest", "SharedMemoryRobot", "SharedMemoryServer"]
