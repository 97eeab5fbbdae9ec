"""The plain robot's sensors, delays, ground and motors, and the loops that serve it."""

import dataclasses
import json

import mujoco
import numpy as np
import pytest
import torch
from gaussgym_deploy.bundle import BundleError
from gaussgym_deploy.robot_io import JointCommand, RobotState
from gaussgym_deploy.shared_memory import EpisodeResult
from gaussgym_deploy.simulated_robot import TRAINING_NOISE, SimulatedRobotCfg
from gaussgym_learn.courses import flat_course, stairs_course
from gaussgym_learn.env import make_env
from gaussgym_learn.evaluate import evaluate, evaluation_cfg, fixed_starts
from gaussgym_learn.robot import PlainRobot
from gaussgym_learn.robot.camera import CameraFeed, response_codes
from gaussgym_learn.robot.sensing import Readings, Sensors
from gaussgym_learn.robot.serving import FreeRunning, Watch
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_sim.robot import get_robot
from gaussgym_sim.sensors.observations import ObservationCfg, proprio_terms

GO1 = get_robot("go1")
STAND = JointCommand(np.array(GO1.default_joint_pos), np.array(GO1.kp), np.array(GO1.kd))


@pytest.fixture(scope="module")
def course():
    return flat_course()


@pytest.fixture(scope="module")
def starts(course):
    return fixed_starts([course], 4)


@pytest.fixture
def make_robot(course, starts):
    def make(cfg=None, **options):
        arguments = options.pop("arguments", {})
        return PlainRobot(
            GO1, course, cfg or evaluation_cfg("goal"), starts, camera=None, options=SimulatedRobotCfg(**options),
            **arguments,
        )  # fmt: skip

    return make


def numbers(t):
    """A row of readings in which everything says when it was taken."""
    quat = np.array([np.cos(t / 2), 0, 0, np.sin(t / 2)])
    return (
        t,
        *(np.full(2, t) for _ in range(3)),
        quat,
        np.full(3, t),
        np.full(3, 3.0),
        np.array([t, 0.0, 0.0]),
    )


def test_readings_come_as_late_as_asked_for_and_time_always_grows():
    readings = Readings(2, 3, 0.1)
    readings.restart(*numbers(5.0))
    assert readings.late()[0][0] == pytest.approx(4.7)
    assert readings.late()[1][0] == 5.0  # as if it had stood so for ever
    seen = []
    for t in (5.1, 5.2, 5.3, 5.4, 5.5):
        readings.add(*numbers(t))
        seen.append((float(readings.late()[0][0]), float(readings.late()[1][0])))
    assert [s for s, _ in seen] == pytest.approx([4.8, 4.9, 5.0, 5.1, 5.2])
    assert [v for _, v in seen] == pytest.approx([5.0, 5.0, 5.0, 5.1, 5.2])


def sensed(cfg, times):
    state = RobotState.zeros(2)
    sensors = Sensors(cfg, state, 0.1)
    sensors.restart(*numbers(times[0]))
    sensors.observe()
    for t in times[1:]:
        sensors.readings.add(*numbers(t))
        sensors.observe()
    return state


def test_odometry_scale_and_yaw_drift_by_hand():
    state = sensed(SimulatedRobotCfg(odometry_scale=1.1), [0.0, 1.0, 3.0])
    assert state.position_w == pytest.approx([3.3, 0.0, 0.0])
    # 0.1 rad after the first metre: the first metre is walked at a heading error of 0.1, the next two at 0.3.
    state = sensed(SimulatedRobotCfg(yaw_drift_rad_per_m=0.1), [0.0, 1.0, 3.0])
    assert state.position_w == pytest.approx(
        [np.cos(0.1) + 2 * np.cos(0.3), np.sin(0.1) + 2 * np.sin(0.3), 0.0]
    )
    assert state.quat_wxyz == pytest.approx([np.cos(3.3 / 2), 0, 0, np.sin(3.3 / 2)])


def test_noise_is_uniform_within_its_amplitude_and_the_attitude_stays_a_rotation():
    rows = []
    state = RobotState.zeros(12)
    sensors = Sensors(SimulatedRobotCfg(noise=2.0, ang_vel_noise_rad_s=0.0, seed=3), state, 0.1)
    row = (0.0, *(np.zeros(12) for _ in range(3)), np.array([1.0, 0, 0, 0]), *(np.zeros(3) for _ in range(3)))
    sensors.restart(*row)
    for _ in range(400):
        sensors.observe()
        rows.append(np.concatenate([state.joint_pos, state.joint_vel, state.ang_vel_b, state.quat_wxyz]))
    rows = np.array(rows)
    for columns, amplitude in ((slice(0, 12), 0.02), (slice(12, 24), 2.0)):
        assert np.abs(rows[:, columns]).max() <= amplitude
        assert rows[:, columns].std() == pytest.approx(amplitude / np.sqrt(3), rel=0.05)
    assert not rows[:, 24:27].any()
    assert np.linalg.norm(rows[:, 27:], axis=1) == pytest.approx(1.0)
    assert 2 * rows[:, 28:].std() == pytest.approx(0.06 / np.sqrt(3), rel=0.1)


def test_training_noise_is_the_environments():
    terms = {term.name: term.noise / term.scale[0] for term in proprio_terms(GO1, ObservationCfg())}
    assert TRAINING_NOISE["joint_pos_noise_rad"] == pytest.approx(terms["joint_pos_offset"])
    assert TRAINING_NOISE["joint_vel_noise_rad_s"] == pytest.approx(terms["joint_vel"])
    assert TRAINING_NOISE["ang_vel_noise_rad_s"] == pytest.approx(terms["ang_vel_b"])
    assert TRAINING_NOISE["attitude_noise_rad"] == pytest.approx(terms["gravity_b"])


def test_a_standing_robot_feels_gravity_torques_and_no_drift(make_robot):
    robot = make_robot()
    robot.reset(0)
    for _ in range(100):
        assert robot.step(STAND) == EpisodeResult.RUNNING
    state = robot.state
    up_b = matrix_from_quat_wxyz(robot.data.qpos[3:7])[2]
    assert state.lin_acc_b == pytest.approx(9.81 * up_b, abs=0.3)
    assert state.position_w == pytest.approx(robot.data.qpos[:3])
    assert state.battery_fraction == 1.0
    assert state.motor_temperature_c is None
    # The joint torques are those that hold the robot's weight at its feet, but for what the legs weigh themselves.
    jacobian, lifted_n = np.zeros((3, robot.model.nv)), 0.0
    for leg, foot in enumerate(GO1.foot_geoms):
        joints = slice(3 * leg, 3 * leg + 3)
        mujoco.mj_jacGeom(robot.model, robot.data, jacobian, None, robot.model.geom(foot).id)
        lifted_n += np.linalg.solve(jacobian[:, robot._v[joints]].T, -state.joint_torque[joints])[2]
    assert lifted_n == pytest.approx(robot.mass_kg * 9.81, rel=0.25)


def test_state_latency_shows_the_past(make_robot):
    prompt, late = make_robot(), make_robot(state_latency_ms=40.0)
    shown = []
    for robot in (prompt, late):
        robot.reset(0)
        rows = [robot.state.joint_pos.copy()]
        for _ in range(10):
            robot.step(STAND)
            rows.append(robot.state.joint_pos.copy())
        shown.append(np.array(rows))
    assert np.array_equal(shown[1][2:], shown[0][:-2])
    assert late.state.t_s == pytest.approx(prompt.state.t_s - 0.04)


def test_command_delay_moves_the_effect(make_robot):
    raised = dataclasses.replace(STAND, q=STAND.q + 0.2)
    torques = []
    for delay in (0.0, 15.0):
        robot = make_robot(command_delay_ms=delay)
        robot.reset(0)
        for _ in range(5):
            robot.step(STAND)
        robot.advance(raised, 1)
        rows = [robot.state.joint_torque.copy()]
        for _ in range(3):
            robot.advance(raised, 1)
            rows.append(robot.state.joint_torque.copy())
        torques.append(np.array(rows))
    assert np.abs(torques[0][0] - torques[1][0]).max() > 2.0  # the late one still holds the old pose
    assert np.abs(torques[1][3] - torques[1][2]).max() > 2.0  # 15 ms later it acts


def test_friction_payload_and_motor_strength_act(make_robot):
    heavy, nominal = make_robot(payload_kg=3.0), make_robot()
    assert heavy.mass_kg == pytest.approx(nominal.mass_kg + 3.0)
    heights = []
    for robot in (heavy, nominal):
        robot.reset(0)
        for _ in range(60):
            robot.step(STAND)
        heights.append(robot.data.qpos[2])
    assert heights[0] < heights[1] - 0.005
    slippery = make_robot(friction=0.2)
    foot = slippery.model.geom("FR_foot").id
    assert slippery.model.geom_friction[foot, 0] == pytest.approx(0.2)
    stiff = make_robot(joint_friction_nm=0.4, joint_damping_nms=0.3).model
    hips = [stiff.joint(name).dofadr[0] for name in GO1.joint_names]
    assert stiff.dof_frictionloss[hips] == pytest.approx(0.4)
    assert stiff.dof_damping[hips] == pytest.approx(0.3)
    assert (nominal.model.dof_frictionloss[hips] < 0.4).all()  # by default the robot's own
    weak = make_robot(motor_strength=0.1)
    weak.reset(0)
    for _ in range(60):
        weak.step(STAND)
    assert np.abs(weak.state.joint_torque).max() <= 0.1 * max(GO1.torque_limit_nm) + 1e-9
    assert weak.result == EpisodeResult.FELL or weak.data.qpos[2] < heights[1] - 0.05


def test_the_same_seed_gives_the_same_episode_and_another_does_not(make_robot):
    def run(seed, first):
        robot = make_robot(noise=1.0, seed=seed)
        for number in (first, 1):  # what was run before does not matter
            robot.reset(number)
            for _ in range(10):
                robot.step(STAND)
        return np.concatenate([robot.state.joint_pos, robot.state.quat_wxyz])

    assert np.array_equal(run(1, 0), run(1, 2))
    assert not np.array_equal(run(1, 0), run(2, 0))


def test_episodes_on_stairs_begin_where_the_environments_do():
    stairs, cfg = stairs_course((0.10,), lanes=4, rubble=False, seed=5), evaluation_cfg("goal")
    starts = fixed_starts([stairs], 24)
    env = make_env("goal", [stairs], 24, renderer=None, cfg=cfg, starts=starts, num_threads=1)
    robot = PlainRobot(GO1, stairs, cfg, starts, camera=None, options=SimulatedRobotCfg())
    heights = []
    for number in range(24):
        robot.reset(number)
        heights.append(robot.data.qpos[2])
    np.testing.assert_allclose(heights, env.sim.state.root_pos_w[:, 2], atol=1e-4)
    assert np.ptp(heights) > 0.2


def test_finer_physics_gives_nearly_the_same_motion(make_robot):
    coarse, fine = make_robot(), make_robot(physics_hz=1000)
    for robot in (coarse, fine):
        robot.reset(0)
        for _ in range(50):
            robot.step(STAND)
    assert fine.state.t_s == pytest.approx(coarse.state.t_s)
    assert np.abs(fine.state.joint_pos - coarse.state.joint_pos).max() < 0.02


class CountingEye:
    """Images that say when they were taken."""

    def image(self, position_w, quat_wxyz):
        return np.full((1, 1, 3), round(100 * position_w[0]), dtype=np.uint8)


def test_exposure_and_gamma_by_hand():
    assert (response_codes(1.0, 1.0) == np.arange(256)).all()
    half = response_codes(0.5, 1.0)
    assert half[255] == 188  # sRGB of half the light: 1.055 * 0.5^(1/2.4) - 0.055 = 0.7354
    assert half[0] == 0
    assert (response_codes(2.0, 1.0)[188:] >= 254).all()
    assert response_codes(1.0, 2.0)[128] == 64  # 255 (128/255)^2 = 64.25


def test_frames_arrive_late_and_the_newest_wins():
    feed, state = CameraFeed(CountingEye(), latency_s=0.15), RobotState.zeros(12)
    quat = np.array([1.0, 0, 0, 0])
    feed.restart(state, 0.0, np.zeros(3), quat)
    assert state.rgb_t_s == 0.0
    seen = []
    for step in range(1, 5):
        t = 0.1 * step
        feed.take(t, np.array([t, 0, 0]), quat)
        feed.receive(state, t)
        seen.append((round(state.rgb_t_s, 3), int(state.rgb[0, 0, 0])))
    assert seen == [(0.0, 0), (0.0, 0), (0.1, 10), (0.2, 20)]


def test_free_running_publishes_at_its_own_rate_and_damps_when_nobody_speaks(make_robot):
    robot = make_robot(physics_hz=1000, state_hz=500, arguments={"endless": True})
    free = FreeRunning(robot)
    free.reset(0)
    assert free.period_s == pytest.approx(0.002)
    start_s = robot.state.t_s
    for step in range(250):
        free.advance(STAND if step % 10 == 0 else None)
    assert robot.state.t_s == pytest.approx(start_s + 0.5)
    assert free.timeouts == 0
    assert robot.data.qpos[2] > 0.2
    for _ in range(500):
        free.advance(None)
    assert free.timeouts == 1
    assert robot.data.qpos[2] < 0.2  # it sank, held up by damping only, and the episode goes on
    assert robot.result == EpisodeResult.RUNNING


def test_the_watch_writes_every_episode_once(make_robot, tmp_path):
    robot = make_robot(dataclasses.replace(evaluation_cfg("goal"), episode_s=0.1))
    with Watch(tmp_path / "episodes.jsonl") as watch:
        for number in (2, 0):
            robot.reset(number)
            watch.see(robot)
            while robot.result == EpisodeResult.RUNNING:
                robot.step(STAND)
                watch.see(robot)
            watch.see(robot)  # asked again after its end
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert [row["start_index"] for row in rows] == [2, 0]
    assert [(row["success"], row["fell"]) for row in rows] == [(0.0, 0.0)] * 2
    assert rows[0]["seconds"] == pytest.approx(
        0.08
    )  # the step that ends an episode is not counted, as in evaluate


def test_a_film_shows_the_first_episode(make_robot, tmp_path):
    from gaussgym_learn.film.chase import ChaseCfg
    from gaussgym_learn.robot.film import RobotFilm
    from gaussgym_scene import synthesize

    robot, film = make_robot(), RobotFilm(tmp_path / "film.mp4", ChaseCfg(width=96, height=64))
    for number in (1, 0):
        robot.reset(number)
        film.add(robot)
        for _ in range(6):
            robot.step(STAND)
            film.add(robot)
    assert len(film.root_pos_w) == 4  # every other control step of the first episode, its start among them
    path = film.write(synthesize("flat", max_splats=1000), robot)
    assert path is not None
    assert path.stat().st_size > 500


class Stand:
    """A policy that holds the default pose."""

    sees = False
    name = "stand"

    def check(self, env):
        pass

    def act(self, obs):
        return torch.zeros(len(obs["proprio"]), 12)

    def reset(self, dones=None):
        pass


def test_the_tally_is_that_of_evaluate(course, starts, monkeypatch):
    """A robot that stands: the same errors, work and path as evaluate finds for the same starts."""
    from gaussgym_learn.evaluate import EPISODE_S

    monkeypatch.setitem(EPISODE_S, "goal", 1.0)
    expected = evaluate(Stand(), course, episodes=2, starts=fixed_starts([course], 2))
    rows = []
    robot = PlainRobot(GO1, course, evaluation_cfg("goal"), fixed_starts([course], 2), camera=None)
    for number in range(2):
        robot.reset(number)
        while robot.step(STAND) == EpisodeResult.RUNNING:
            pass
        rows.append(robot.tally.row(robot.result))
    for name in ("velocity_error_m_s", "yaw_rate_error_rad_s", "cost_of_transport"):
        assert np.mean([row[name] for row in rows]) == pytest.approx(expected[name], rel=0.02), name
    assert np.mean([row["seconds"] for row in rows]) == pytest.approx(expected["seconds_mean"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"friction": -1.0}, "friction is -1.0"),
        ({"motor_strength": 0.0}, "motor_strength is 0.0"),
        ({"state_hz": 300}, "divisor of the 200 physics steps"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"joint_friction_nm": -0.1}, "joint_friction_nm is -0.1"),
        ({"camera_gain": 0.0}, "camera_gain is 0.0"),
    ],
)
def test_options_that_cannot_be_simulated_are_refused(options, text):
    with pytest.raises(BundleError, match=text):
        SimulatedRobotCfg(**options)


def test_options_as_arguments_read_back():
    import tyro

    cfg = SimulatedRobotCfg(
        camera_hz=7.5, payload_kg=2.0, state_hz=100, seed=4, joint_friction_nm=0.3, camera_gain=0.8
    )
    assert tyro.cli(SimulatedRobotCfg, args=cfg.arguments()) == cfg
