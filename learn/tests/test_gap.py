"""The gap between a robot and its simulation: planted differences are found again, what is not there is not claimed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from gaussgym_learn.gap import least_squares
from gaussgym_learn.gap.compare import CompareCfg, compare, placed
from gaussgym_learn.gap.fitting import fit_physics
from gaussgym_learn.gap.preset import preset
from gaussgym_learn.gap.recording import read_recording
from gaussgym_learn.gap.replay import Physics, Replay, Starts, choose_segments, estimate_starts
from gaussgym_learn.gap.response import fit_response, psnr_db, respond
from gaussgym_learn.gap.testing import Truth, simulate, write_flight
from gaussgym_render.robot_camera import get_camera_model
from gaussgym_scene.errors import InputError
from gaussgym_scene.synth import synthesize
from gaussgym_sim.ground.terrain import ground_of
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.randomize import RandomizeCfg
from gaussgym_sim.robot import get_robot

TRUTH = Truth(delay_s=0.016, strength=0.8, joint_friction_nm=0.3, joint_damping_nms=0.2, ground_friction=0.5)


@pytest.fixture(scope="module")
def flat():
    return synthesize("flat", seed=0, max_splats=2000)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return write_flight(tmp_path_factory.mktemp("flight"), simulate(TRUTH, seconds=2.0))


def physics_of(truth):
    return Physics(
        truth.delay_s, truth.strength, truth.joint_friction_nm, truth.joint_damping_nms, truth.ground_friction
    )


def replay_of(recording, flat, horizon=3, count=20):
    segments = choose_segments(recording, horizon=horizon, count=count)
    return Replay(recording, get_robot("go1"), ground_of(flat), segments)


def test_a_replay_with_the_true_physics_and_start_follows_the_other_simulator(short, flat):
    recording = read_recording(short)
    replay = replay_of(recording, flat, horizon=1)
    exact = estimate_starts(replay)
    first = replay.segments.first
    assert recording.position_w is not None
    assert np.abs(exact.position_w - recording.position_w[first]).max() < 1e-12
    good, bad = (replay.run(p, exact) for p in (physics_of(TRUTH), Physics()))
    error, nominal = (
        np.abs(t.joint_pos - recording.joint_pos[replay.segments.rows]).mean() for t in (good, bad)
    )
    assert error < 1e-3
    assert nominal > 5 * error


def test_commands_are_averaged_over_fractions_of_a_substep(short, flat):
    recording = read_recording(short)
    replay = replay_of(recording, flat, horizon=1, count=1)
    t0 = recording.sent_s[10]
    stiff, gain, damp = replay._integrals.averages(np.array([t0 - 0.004]), np.array([t0 + 0.001]))
    expected = 0.8 * recording.kp[9] * recording.target[9] + 0.2 * recording.kp[10] * recording.target[10]
    assert np.abs(stiff[0] - expected).max() < 1e-9
    assert np.abs(gain[0] - recording.kp[9]).max() < 1e-9
    assert np.abs(damp[0] - recording.kd[9]).max() < 1e-9


def test_times_of_commands_are_on_the_robots_clock(tmp_path):
    arrays = simulate(Truth(), seconds=1.0)
    late = np.zeros(50)
    late[10] = 0.004  # this state was 4 ms old when the runtime read it
    arrays["t_s"] = arrays["robot_t_s"] + 1234.5 + late
    recording = read_recording(write_flight(tmp_path, arrays))
    assert np.allclose(recording.sent_s, arrays["robot_t_s"] + late, atol=1e-9)
    assert recording.state_age_s == pytest.approx(0.004 / 50)


def test_a_robot_whose_clock_drifts_or_falls_behind_is_followed(tmp_path):
    arrays = simulate(Truth(), seconds=12.0)
    robot_s = arrays["robot_t_s"]
    arrays["t_s"] = robot_s * 1.0001 + 7.0  # 100 ppm, 1.2 ms in the end
    arrays["t_s"][300:] += 0.03  # held up once: the robot's time stood still meanwhile
    recording = read_recording(write_flight(tmp_path, arrays))
    off_s = np.abs(recording.sent_s[:, None] - robot_s).min(axis=1)  # each went out when a state was measured
    assert len(off_s) > 590
    assert off_s[:290].max() < 2e-4
    assert off_s[360:].max() < 2e-4


def test_a_reset_or_a_gap_begins_a_new_piece(tmp_path):
    arrays = simulate(Truth(), seconds=1.0)
    arrays["t_s"][20:] -= 0.3  # the runtime's clock was restarted
    arrays["robot_t_s"][40:] += 0.5
    arrays["t_s"][40:] += 0.5
    recording = read_recording(write_flight(tmp_path, arrays))
    assert np.flatnonzero(np.diff(recording.piece)).tolist() == [19, 39]
    segments = choose_segments(recording, horizon=3, count=100)
    assert all(recording.piece[f] == recording.piece[f + 3] for f in segments.first)


def test_velocity_without_odometry_comes_from_standing_feet(tmp_path, flat):
    arrays = simulate(Truth(), seconds=2.0, amplitude=0.15)
    true_velocity = np.gradient(arrays["position_w"], 0.02, axis=0)
    del arrays["position_w"]
    recording = read_recording(write_flight(tmp_path, arrays))
    replay = replay_of(recording, flat)
    error = estimate_starts(replay).velocity_w - true_velocity[replay.segments.first]
    assert np.sqrt((error**2).mean()) < 0.03 < np.sqrt((true_velocity**2).mean())


def test_odometry_that_comes_rarely_is_joined_by_lines_and_tells_no_velocity(tmp_path, flat):
    arrays = simulate(Truth(), seconds=2.0, amplitude=0.15)
    true = arrays["position_w"]
    held = true[np.arange(len(true)) // 10 * 10]
    recording = read_recording(write_flight(tmp_path, arrays | {"position_w": held}))
    assert recording.position_w is not None
    assert not recording.steady_odometry
    assert np.abs(recording.position_w[:90] - true[:90]).max() < np.abs(held[:90] - true[:90]).max()
    velocity = estimate_starts(replay_of(recording, flat)).velocity_w
    assert np.abs(velocity).max() < 1.0
    assert read_recording(write_flight(tmp_path, arrays)).steady_odometry


def test_odometry_is_placed_in_the_scene(short):
    recording = read_recording(short)
    moved = placed(recording, (1.0, 2.0, 0.5, np.pi / 2))
    assert recording.position_w is not None
    assert moved.position_w is not None
    x, y, z = recording.position_w[0]
    assert np.allclose(moved.position_w[0], [1.0 - y, 2.0 + x, z + 0.5])


def test_least_squares_equals_a_dense_solution_and_its_errors_are_right():
    rng = np.random.default_rng(0)
    count, rows, shared_size, own_size = 300, 12, 3, 2
    a, b = rng.normal(size=(count, rows, shared_size)), rng.normal(size=(count, rows, own_size))
    truth, own_truth = np.array([0.5, -0.3, 0.2]), rng.normal(size=(count, own_size)) * 0.1
    unknowns = least_squares.Unknowns(
        np.full(3, -10.0), np.full(3, 10.0), np.full(3, 0.01), np.ones(3), np.full(2, 0.01), np.full(2, 1e3)
    )
    found = []
    for _ in range(40):
        noise = 0.01 * rng.normal(size=(count, rows))

        def off(shared, own, noise=noise):
            return a @ (shared - truth) + np.einsum("nrq,nq->nr", b, own - own_truth) + noise

        shared, own = least_squares.minimize(
            off, unknowns, np.zeros(3), np.zeros((count, 2)), rounds=20, tolerance=1e-9
        )
        found.append(shared)
    matrix = np.zeros((count * rows, 3 + 2 * count))
    matrix[:, :3] = a.reshape(-1, 3)
    for n in range(count):
        matrix[n * rows : (n + 1) * rows, 3 + 2 * n : 5 + 2 * n] = b[n]
    target = (a @ truth + np.einsum("nrq,nq->nr", b, own_truth) - noise).ravel()
    assert np.abs(np.linalg.lstsq(matrix, target, rcond=None)[0][:3] - shared).max() < 2e-5
    errors = least_squares.standard_errors(least_squares.slopes(off, unknowns, shared, own), unknowns.scale)
    assert np.allclose(errors, np.std(found, axis=0), rtol=0.35)


def test_what_residuals_do_not_depend_on_has_no_error_but_infinity():
    low, high, step, scale = (np.full(2, x) for x in (-1.0, 1.0, 0.01, 1.0))
    unknowns = least_squares.Unknowns(low, high, step, scale, np.ones(1), np.ones(1))
    noise = np.random.default_rng(0).normal(size=(20, 5))
    at = least_squares.slopes(lambda s, o: s[0] + noise + 0 * o, unknowns, np.zeros(2), np.zeros((20, 1)))
    errors = least_squares.standard_errors(at, unknowns.scale)
    assert np.isfinite(errors[0])
    assert errors[1] == np.inf


def test_an_unknown_stops_at_its_bound_and_the_others_make_up_for_it():
    unknowns = least_squares.Unknowns(
        np.zeros(2), np.ones(2), np.full(2, 0.01), np.ones(2), np.ones(1), np.ones(1)
    )
    matrix = np.array([[1.0, 0.5], [0.5, 1.0], [1.0, 1.0]])
    target = matrix @ [-0.3, 0.5]
    shared, _ = least_squares.minimize(
        lambda s, o: (matrix @ s - target)[None] * 1e-3 + 0 * o, unknowns, np.array([0.5, 0.5]), np.zeros((1, 1)), rounds=50,
        tolerance=1e-12,
    )  # fmt: skip
    alone = float(matrix[:, 1] @ target / (matrix[:, 1] @ matrix[:, 1]))
    assert shared == pytest.approx([0.0, alone], abs=1e-3)


def images(seed=0, count=8):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(10, 200, (count, 7, 9, 3))
    return np.stack([np.kron(c, np.ones((8, 8, 1))) for c in coarse]).round().astype(np.uint8)


def test_a_planted_camera_response_is_found():
    ideal = images()
    rng = np.random.default_rng(1)
    gain, offset, gamma = np.array([1.3, 1.5, 1.2]), np.array([4.0, 6.0, 2.0]), 0.9
    seen = respond(ideal.astype(np.float64), gain, offset, gamma) + rng.normal(0, 2, ideal.shape)
    seen = np.roll(
        np.clip(seen, 0, 255).round().astype(np.uint8), 1, axis=2
    )  # a pixel beside where it should be
    fitted = fit_response(seen, ideal)
    assert np.abs(fitted.gain / gain - 1).max() < 0.05
    assert np.abs(fitted.offset - offset).max() < 2.0
    assert abs(fitted.gamma / gamma - 1) < 0.05
    assert fitted.hidden == ()
    assert fitted.psnr_after_db > fitted.psnr_before_db + 2
    assert (np.abs(fitted.gain - gain) < 4 * fitted.gain_error + 0.02).all()


def test_images_without_contrast_do_not_show_gamma():
    ideal = np.full((4, 16, 16, 3), 120, np.uint8)
    noise = np.random.default_rng(0).normal(0, 2, ideal.shape)
    fitted = fit_response(np.clip(150 + noise, 0, 255).round().astype(np.uint8), ideal)
    assert "gamma" in fitted.hidden


def test_psnr_by_hand():
    assert psnr_db(np.zeros((2, 2)), np.full((2, 2), 255)) == pytest.approx(0.0)
    assert psnr_db(np.zeros((2, 2)), np.full((2, 2), 25.5)) == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a.pop("kp"), "lacks kp"),
        (lambda a: a.update(joint_pos=a["joint_pos"][:, :11]), "'joint_pos' has shape"),
        (lambda a: a.update(kp=0 * a["kp"]), "motors were driven"),
        (lambda a: a.update(rgb=np.zeros((2, 4, 4), np.uint8)), "'rgb' is uint8"),
        (lambda a: a.update({n: v[:1] for n, v in a.items()}), "holds 1 control steps"),
        (lambda a: a.update(joint_pos=np.nan * a["joint_pos"]), "holds 0 states"),
    ],
)
def test_bad_recordings_are_one_clear_line(tmp_path, flat, change, words):
    arrays = simulate(Truth(), seconds=0.5)
    change(arrays)
    with pytest.raises(InputError, match=words) as error:
        compare(write_flight(tmp_path, arrays), flat)
    assert "\n" not in str(error.value)


def test_another_robots_joints_are_refused(tmp_path, flat):
    folder = write_flight(tmp_path, simulate(Truth(), seconds=0.5), joint_names=[f"j{i}" for i in range(12)])
    with pytest.raises(InputError, match="joints j0"):
        compare(folder, flat)


def test_missing_files_are_one_clear_line(tmp_path, flat):
    with pytest.raises(InputError, match="expected the folder of a flight recording"):
        compare(tmp_path / "none", flat)


def recovered(estimate, truth, *, relative=0.1, absolute=0.0):
    assert estimate["value"] is not None, estimate
    assert abs(estimate["value"] - truth) <= max(absolute, relative * truth), estimate


def test_a_quiet_log_is_fitted_down_to_single_control_steps(tmp_path, flat):
    truth = Truth(strength=0.8, joint_friction_nm=0.3)
    recording = read_recording(write_flight(tmp_path, simulate(truth, seconds=2.0)))
    segments, said = choose_segments(recording, horizon=3, count=16), []
    fit = fit_physics(
        lambda some: Replay(recording, get_robot("go1"), ground_of(flat), some),
        segments, names=("strength", "joint_friction_nm"), progress=said.append,
    )  # fmt: skip
    assert "fit to single control steps" in said
    assert fit.physics.strength == pytest.approx(0.8, rel=0.05)
    assert fit.physics.joint_friction_nm == pytest.approx(0.3, rel=0.1)


@pytest.mark.slow
def test_planted_physics_are_found_within_ten_percent(tmp_path, flat):
    folder = write_flight(tmp_path, simulate(TRUTH, seconds=20.0))
    report, made = compare(folder, flat, CompareCfg(segments=100), picture=tmp_path / "joints.png")
    for name, value in vars(TRUTH).items():
        recovered(report["fit"][name], value)
    nominal, fitted = (
        np.mean(list(report["gaps"][k]["joint_pos_rad"].values())) for k in ("nominal", "fitted")
    )
    assert fitted < 0.3 * nominal
    assert (tmp_path / "joints.png").stat().st_size > 10_000
    (tmp_path / "preset.json").write_text(json.dumps(made))
    ranges = randomize_preset(str(tmp_path / "preset.json"))
    for field, value in (
        ("delay_s", 0.016),
        ("strength_factor", 0.8),
        ("joint_friction_nm", 0.3),
        ("friction", 0.5),
    ):
        low, high = getattr(ranges, field)
        assert low <= value <= high, field
    assert ranges.kick_m_s == RandomizeCfg().kick_m_s


@pytest.mark.slow
def test_ground_friction_is_not_claimed_where_no_foot_slides(tmp_path, flat):
    truth = replace(TRUTH, ground_friction=1.2)
    folder = write_flight(tmp_path, simulate(truth, seconds=12.0, amplitude=0.12))
    report, made = compare(folder, flat, CompareCfg(segments=80))
    ground = report["fit"]["ground_friction"]
    assert ground["value"] is None
    assert "not observable" in ground["reason"]
    assert 0.05 < ground["at_least"] < 1.2
    assert "friction" not in made["randomize"]
    for name in ("delay_s", "strength"):
        recovered(report["fit"][name], getattr(truth, name))


def test_a_preset_is_read_by_physics_and_camera(tmp_path):
    path = tmp_path / "preset.json"
    values = {
        "format": "gaussgym-preset",
        "version": 1,
        "base": "light",
        "randomize": {"delay_s": [0.01, 0.02]},
    }
    path.write_text(json.dumps({**values, "sensor": {"exposure_ev": [-0.5, 0.25]}}))
    assert randomize_preset(str(path)) == replace(RandomizeCfg.light(), delay_s=(0.01, 0.02))
    assert get_camera_model(str(path)).sensor.exposure_ev == (-0.5, 0.25)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "x"}, "expected format"),
        ({"base": "nothing"}, "base is 'nothing'"),
        ({"randomize": {"delay": [0, 1]}}, "unknown field 'delay'"),
        ({"randomize": {"delay_s": [0.2, 0.1]}}, "delay_s is"),
        ({"randomize": {"delay_s": 0.1}}, "delay_s is"),
        ({"randomize": {"kick_m_s": [0.1, 0.2]}}, "kick_m_s is"),
        ({"randomize": [1]}, "'randomize' holds a list"),
    ],
)
def test_bad_presets_are_one_clear_line(tmp_path, change, words):
    path = tmp_path / "preset.json"
    path.write_text(
        json.dumps({"format": "gaussgym-preset", "version": 1, "base": "none", "randomize": {}} | change)
    )
    with pytest.raises(InputError, match=words):
        randomize_preset(str(path))


def test_bad_camera_files_are_one_clear_line(tmp_path):
    path = tmp_path / "camera.json"
    for text, words in (
        ("{", "not valid JSON"),
        ('{"format": "gaussgym-preset", "version": 1, "sensor": {"exposure": [0, 1]}}', "sensor.exposure"),
        ('{"format": "gaussgym-preset", "version": 1, "sensor": {"exposure_ev": [-99, 1]}}', "exposure_ev"),
        ('{"format": "gaussgym-camera", "version": 1}', "cannot be read as a camera"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=words):
            get_camera_model(str(path))


def test_the_delay_of_a_preset_counts_from_the_state():
    from gaussgym_learn.gap.fitting import Estimate, Fit

    estimates = {"delay_s": Estimate("delay_s", "s", 0.012, 0.001)}
    starts = Starts(np.zeros((0, 3)), np.zeros((0, 3)))
    fit = Fit(Physics(), estimates, starts, 1.0, 1.0, 0.0)
    assert preset(fit, None, state_age_s=0.003, made_from={})["randomize"]["delay_s"] == [0.01, 0.02]
