import numpy as np
import pytest
from gaussgym_recon.consensus import Attempt, agreed_against_gps, chosen, contested
from gaussgym_recon.consistency import ConsistencyCfg, RecaptureError, check_consistency, link_points
from gaussgym_recon.depth_images import scales_of_images
from gaussgym_recon.posed import Similarity
from gaussgym_recon.sfm import SfmCfg
from gaussgym_recon.sfm_model import SfmModel, without_loose_cameras
from gaussgym_scene.cameras import Intrinsics
from gaussgym_scene.capture import Capture, CaptureImage
from scipy.spatial.transform import Rotation

SFM_FROM_WORLD = Similarity(
    0.2, Rotation.from_euler("zyx", [1.1, 0.4, -2.0]).as_matrix(), np.array([1.0, 2.0, 3.0])
)


def street_walk(count=29, step_m=7.0, seed=0):
    """True positions `[n, 3]` of a slightly winding walk and GPS fixes with a phone's noise."""
    rng = np.random.default_rng(seed)
    s = step_m * (np.arange(count) + rng.uniform(-0.2, 0.2, count))
    true = np.c_[s, 4 * np.sin(s / 30), 0.02 * s]
    return true, true + rng.normal(0, [2.0, 2.0, 5.0], (count, 3))


def glued(true, at, *, scale=1.0, offset=(0.0, 0.0, 0.0)):
    """Two good halves, the second one attached at another scale or place: what a wrong map looks like."""
    wrong = true.copy()
    wrong[at:] = true[at] + scale * (true[at:] - true[at]) + np.asarray(offset)
    return wrong


def check(positions, gps=None, **changes):
    arguments = {
        "num_images": len(positions),
        "reprojection_error_px": 0.66,
        "link_points": np.full(len(positions) - 1, 60),
        "gps_enu_m": gps,
    } | changes
    return check_consistency(np.arange(len(positions)), SFM_FROM_WORLD.apply(positions), **arguments)


@pytest.mark.parametrize("seed", range(5))
def test_right_model_passes_with_and_without_gps(seed):
    true, gps = street_walk(seed=seed)
    found = check(true, gps)
    assert found.reasons == ()
    assert found.gps_residual_median_m < 4.0
    assert found.half_scale_ratio == pytest.approx(1.0, abs=0.1)
    assert found.max_step == pytest.approx(np.linalg.norm(np.diff(true, axis=0), axis=1).max(), rel=0.1)
    assert check(true).ok


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"scale": 2.0}, "scale to GPS"),
        ({"scale": 0.6}, "scale to GPS"),
        ({"offset": (70.0, 0.0, 0.0)}, "step of"),
        ({"offset": (0.0, 60.0, 0.0)}, "step of"),
    ],
)
def test_halves_glued_wrongly_are_refused_with_gps(changes, reason):
    true, gps = street_walk()
    found = check(glued(true, 14, **changes), gps)
    assert any(reason in text for text in found.reasons), found.reasons


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"scale": 3.0}, "steps of the second half"), ({"offset": (90.0, 0.0, 0.0)}, "times the median step")],
)
def test_halves_glued_wrongly_are_refused_without_gps(changes, reason):
    true, _ = street_walk()
    found = check(glued(true, 14, **changes))
    assert any(reason in text for text in found.reasons), found.reasons


def test_every_gate_gives_its_reason():
    true, gps = street_walk()
    reasons = check(
        true,
        gps,
        num_images=60,
        reprojection_error_px=2.5,
        link_points=np.r_[60, 3, np.full(26, 60)],
    ).reasons
    assert [text.split(",")[0] for text in reasons] == [
        "29 of 60 images registered",
        "reprojection error 2.50 px",
        "images up to 2 and after share 3 points",
    ]


def test_one_wrong_fix_is_named_and_moves_nothing():
    true, gps = street_walk()
    right = check(true, gps)
    gps[20, 1] += 80.0
    found = check(true, gps)
    assert found.ok, found.reasons
    assert found.gps_outliers == (20,)
    assert found.gps_residual_max_m == pytest.approx(right.gps_residual_max_m, abs=1.0)


@pytest.mark.parametrize("seed", range(8))
def test_a_fifth_of_falsified_fixes_is_named(seed):
    true, gps = street_walk(seed=seed)
    rng = np.random.default_rng([seed, 7])
    wrong = np.sort(rng.choice(len(true), 6, replace=False))
    angle = rng.uniform(0, 2 * np.pi, 6)
    gps[wrong, :2] += rng.uniform(40, 300, 6)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    found = check(true, gps)
    assert found.ok, found.reasons
    assert found.gps_outliers == tuple(wrong)


def test_an_end_of_the_map_that_is_glued_on_wrongly_is_no_matter_of_wrong_fixes():
    true, gps = street_walk()
    found = check(glued(true, 24, offset=(0.0, 40.0, 0.0)), gps)
    assert any("together" in text for text in found.reasons), found.reasons


def test_more_wrong_fixes_than_a_quarter_speak_against_the_map():
    true, gps = street_walk()
    gps[2::3, 1] += 60.0 * (-1.0) ** np.arange(9)
    assert any("9 of 29 GPS fixes" in text for text in check(true, gps).reasons)


def test_parts_of_several_scales_show_in_depth_images_though_steps_are_even():
    """A part on which the walker went at half speed, glued on at twice its scale: its steps are like all others."""
    true, _ = street_walk()
    assert check(true).ok
    scales = np.full(29, 5.0)
    scales[[3, 20]] = 9.0, np.nan  # one image is off, one has no depth
    assert check(true, depth_scales=scales).ok
    scales[15:] /= 2.0
    found = check(true, depth_scales=scales)
    assert len(found.reasons) == 1
    assert "of 28 images say another scale than the others" in found.reasons[0]
    assert found.gps_reasons == ()


def test_scale_of_an_image_is_the_median_of_its_points():
    measured = [np.array([2.0, 0.0, 3.0, np.nan, 8.0, 10.0, 12.0]), np.ones(4), np.zeros(0)]
    distances = [np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]), np.ones(4), np.zeros(0)]
    np.testing.assert_array_equal(scales_of_images(measured, distances), [4.0, np.nan, np.nan])


def test_unordered_photographs_are_not_judged_by_their_steps():
    true, _ = street_walk()
    shuffled = true[np.random.default_rng(3).permutation(len(true))]
    assert check(shuffled, ordered=False).ok
    assert check(shuffled, ordered=True).step_ratio > 2.0


def test_gates_widen_where_a_walk_is_too_short_to_measure_scale():
    rng = np.random.default_rng(1)
    true = np.c_[np.linspace(0, 20, 40), np.zeros((40, 2))]
    gps = true + rng.normal(0, 1.5, (40, 3))
    ratio = check(true, gps).half_scale_ratio
    assert check(true, gps).ok, ratio
    strict = check(true, gps, cfg=ConsistencyCfg(gps_noise_m=0.0, max_half_scale_change=1e-3))
    assert any("scale to GPS" in text for text in strict.reasons)


def test_the_kept_model_is_the_one_nearest_to_gps():
    true, gps = street_walk()
    right, drifted = check(true, gps), check(glued(true, 14, scale=1.08), gps)
    assert right.ok
    assert drifted.ok
    assert right.badness() < drifted.badness()
    assert drifted.badness() < check(glued(true, 14, scale=2.0), gps).badness()


def test_link_points_against_counting():
    rng = np.random.default_rng(5)
    visible = [rng.choice(50, size=12, replace=False).astype(np.int32) for _ in range(8)]
    expected = [
        len(set(np.concatenate(visible[: gap + 1])) & set(np.concatenate(visible[gap + 1 :])))
        for gap in range(7)
    ]
    np.testing.assert_array_equal(link_points(visible, 50), expected)


def test_link_points_of_two_separate_pieces_is_zero():
    visible = [np.array([0, 1]), np.array([0, 1]), np.array([2, 3]), np.array([2, 3])]
    np.testing.assert_array_equal(link_points(visible, 4), [2, 0, 2])


def maps_of(capture, positions, gps, seeds):
    """Maps of a survey, one a seed: its cameras at `positions(seed)` in a frame of its own."""
    attempts = []
    lens = Intrinsics(width=64, height=48, fx=50, fy=50, cx=32, cy=24)
    for seed in seeds:
        centers = Similarity(0.2 + seed, Rotation.random(random_state=seed).as_matrix(), np.ones(3)).apply(
            positions(seed)
        )
        c2w = np.tile(np.eye(4), (len(centers), 1, 1))
        c2w[:, :3, 3] = centers
        everywhere = [np.arange(60, dtype=np.int32)] * len(centers)
        model = SfmModel(
            [image.file for image in capture.images], [lens] * len(centers), c2w, np.zeros((60, 3)), np.zeros((60, 3), np.uint8),
            np.full(60, 0.5), np.full(60, len(centers), np.int32), everywhere,
        )  # fmt: skip
        attempts.append(Attempt(model, check(positions(seed), gps), seed, 0.5))
    return attempts


def survey(seed=0):
    """A drone's lines to and fro, and GPS that is off by 10 m along each axis."""
    rng = np.random.default_rng(seed)
    i, j = np.divmod(np.arange(60), 10)
    true = np.c_[12.0 * np.where(i % 2, 9 - j, j), 20.0 * i, 60 + rng.normal(0, 0.5, 60)]
    lens = Intrinsics(width=64, height=48, fx=50, fy=50, cx=32, cy=24)
    capture = Capture(None, [CaptureImage(f"{k}.jpg", lens) for k in range(60)], {"ordered": True})
    return capture, true, true + rng.normal(0, [10.0, 10.0, 15.0], (60, 3))


def test_maps_that_agree_with_one_another_outvote_poor_gps():
    capture, true, gps = survey()
    noise = np.random.default_rng(1)
    made = maps_of(capture, lambda seed: true + noise.normal(0, 0.3, true.shape), gps, range(3))
    assert not any(attempt.consistency.ok for attempt in made)
    found = agreed_against_gps(capture, made, gps, SfmCfg())
    assert found.consistency.ok
    assert found.consistency.gps_noise_m == pytest.approx(10.0, rel=0.25)
    assert agreed_against_gps(capture, made[:2], gps, SfmCfg()) is None


def test_maps_that_are_glued_at_other_places_do_not():
    capture, true, gps = survey()
    made = maps_of(capture, lambda seed: glued(true, 15 + 12 * seed, scale=1.5), gps, range(3))
    assert agreed_against_gps(capture, made, gps, SfmCfg()) is None


def short_walk(scales, fixes=True):
    """Maps of 12 m there and back with a turn on the spot, one for each scale that it gives the way back; GPS is too coarse to tell."""
    s = np.concatenate([np.arange(12.0), np.full(8, 11.0), np.arange(11.0, -1.0, -1.0)])
    rng = np.random.default_rng(3)
    true = np.c_[
        s + rng.normal(0, 0.05, len(s)), 0.4 * np.cos(np.linspace(0, np.pi, len(s))), np.zeros(len(s))
    ]
    lens = Intrinsics(width=64, height=48, fx=50, fy=50, cx=32, cy=24)
    capture = Capture(None, [CaptureImage(f"{k}.jpg", lens) for k in range(len(s))], {"ordered": True})
    gps = true + rng.normal(0, 0.5, true.shape) if fixes else None
    return maps_of(capture, lambda seed: glued(true, 20, scale=scales[seed]), gps, range(len(scales)))


@pytest.mark.parametrize("fixes", [True, False])
def test_maps_that_contradict_each_other_are_contested_where_gps_cannot_tell(fixes):
    assert not contested(short_walk([1.0, 1.001, 0.999], fixes), SfmCfg())
    made = short_walk([2.0, 1.0, 0.6, 1.002], fixes)
    assert all(attempt.consistency.ok for attempt in made)
    assert contested(made, SfmCfg())
    # Two agree, so one of them is kept.
    assert chosen(made, SfmCfg()).seed in (1, 3)


def test_a_map_that_gps_refuses_shows_that_the_photographs_leave_scale_open():
    made = short_walk([1.0, 6.0, 1.001])
    assert [attempt.consistency.ok for attempt in made] == [True, False, True]
    assert contested(made, SfmCfg())
    assert chosen(made, SfmCfg()).seed in (0, 2)


def test_maps_none_of_which_another_confirms_are_refused():
    with pytest.raises(RecaptureError, match=r"3 maps of the same photographs differ.*walk a small circle"):
        chosen(short_walk([2.0, 1.0, 0.6]), SfmCfg())


def test_a_single_map_is_not_confirmed_and_yet_kept_where_there_is_no_other():
    made = short_walk([1.0])
    assert contested(made, SfmCfg())
    assert chosen(made, SfmCfg()) is made[0]


def test_maps_that_gps_or_depth_can_judge_are_not_contested():
    true, gps = street_walk()
    lens = Intrinsics(width=64, height=48, fx=50, fy=50, cx=32, cy=24)
    capture = Capture(None, [CaptureImage(f"{k}.jpg", lens) for k in range(len(true))], {"ordered": True})
    made = maps_of(capture, lambda seed: glued(true, 15, scale=[1.0, 2.0][seed]), gps, range(2))
    assert [attempt.consistency.ok for attempt in made] == [True, False]
    assert made[0].consistency.scale_checked
    assert not contested(made, SfmCfg())
    assert check(true, depth_scales=np.full(len(true), 5.0)).scale_checked
    assert not check(true, depth_scales=np.full(len(true), np.nan)).scale_checked


def map_of(seen, count=5, points=100):
    """A map whose cameras see the points of `seen`."""
    lens = Intrinsics(width=64, height=48, fx=50, fy=50, cx=32, cy=24)
    c2w = np.tile(np.eye(4), (count, 1, 1))
    c2w[:, 0, 3] = np.arange(count)
    return SfmModel(
        [f"{k}.jpg" for k in range(count)], [lens] * count, c2w, np.arange(3.0 * points).reshape(points, 3),
        np.zeros((points, 3), np.uint8), np.full(points, 0.5),
        np.bincount(np.concatenate(seen), minlength=points).astype(np.int32), seen,
    )  # fmt: skip


def test_a_camera_that_shares_points_with_one_other_only_is_not_taken_for_posed():
    """Of 40 points with its neighbour 30 are seen by no third camera: its distance is anyone's guess."""
    common, pair = np.arange(60, dtype=np.int32), np.arange(70, 100, dtype=np.int32)
    seen = [common, common, common, np.r_[common, pair], np.r_[common[:10], pair]]
    found = without_loose_cameras(map_of(seen), 15)
    assert found.names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    np.testing.assert_array_equal(found.c2w[:, 0, 3], [0, 1, 2, 3])
    # Points that one camera alone is left with are gone; the others are those they were.
    np.testing.assert_array_equal(found.points, np.arange(180.0).reshape(60, 3))
    assert (found.track_lengths == 4).all()
    for k in range(4):
        np.testing.assert_array_equal(found.visible[k], common)


def test_a_map_whose_cameras_are_all_firm_stays_as_it_is():
    every = np.arange(100, dtype=np.int32)
    model = map_of([every] * 4 + [every[:15]])
    assert without_loose_cameras(model, 15) is model
    assert without_loose_cameras(map_of([every[:3]] * 5), 15) is None
