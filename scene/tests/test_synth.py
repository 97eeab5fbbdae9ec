import dataclasses
import hashlib
import time

import numpy as np
import pytest
from gaussgym_scene import Scene, synthesize
from gaussgym_scene.errors import InputError
from gaussgym_scene.frames import matrix_from_quat_wxyz
from gaussgym_scene.synth import KINDS
from gaussgym_scene.testing import install_package

SIZES = {
    "street": {"length_m": 30.0, "max_splats": 30_000},
    "course": {"levels": 3, "max_splats": 30_000},
    "hall": {"length_m": 14.0},
}


@pytest.fixture(scope="module")
def scenes():
    """One scene of each kind, made when first asked for."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = synthesize(kind, seed=3, **SIZES.get(kind, {}))
        return made[kind]

    return get


def digest(scene):
    """Hash of all arrays of a scene."""
    parts = [scene.splats, scene.mesh, scene.heightfield, scene.paths, scene.appearance]
    total = hashlib.sha256()
    for part in parts:
        for value in (getattr(part, field.name) for field in dataclasses.fields(part)):
            for array in value if isinstance(value, list) else [value]:
                if array is not None:
                    total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("kind", KINDS.own)
def test_every_kind_saves_and_loads_unchanged(kind, scenes, tmp_path):
    scene = scenes(kind)
    scene.save(tmp_path / "place")
    again = Scene.load(tmp_path / "place")
    for name in ("mesh", "heightfield", "paths", "appearance"):
        for field in dataclasses.fields(getattr(scene, name)):
            a, b = getattr(getattr(scene, name), field.name), getattr(getattr(again, name), field.name)
            if field.name == "textures":
                assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
            else:
                np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(again.splats.colors, scene.splats.colors, atol=1e-5)
    assert again.metadata["scale_source"] == "exact"
    assert again.metadata["kind"] == kind


@pytest.mark.parametrize("kind", ["stairs", "corridor"])
def test_same_seed_gives_identical_bytes(kind, scenes):
    assert digest(synthesize(kind, seed=3)) == digest(scenes(kind))
    assert digest(synthesize(kind, seed=4)) != digest(scenes(kind))


def test_street_is_deterministic_too(scenes):
    assert digest(synthesize("street", seed=3, **SIZES["street"])) == digest(scenes("street"))


@pytest.mark.parametrize("kind", KINDS.own)
def test_heightfield_equals_rays_cast_down_onto_the_mesh(kind, scenes):
    """Slow twin: Open3D's ray caster, from 1 m above the highest ground, at random grid points."""
    o3d = pytest.importorskip("open3d")
    scene = scenes(kind)
    ground, rng = scene.heightfield, np.random.default_rng(0)
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(
        o3d.core.Tensor(scene.mesh.vertices), o3d.core.Tensor(scene.mesh.faces.astype(np.uint32))
    )
    j, i = (part[rng.integers(0, len(part), 3000)] for part in [np.arange(n) for n in ground.height_m.shape])
    picked = ground.known[j, i]
    top = float(ground.height_m[ground.known].max()) + 1.0
    xy = ground.grid_xy()[j, i][picked]
    rays = np.column_stack([xy, np.full(len(xy), top), np.tile([0, 0, -1], (len(xy), 1))]).astype(np.float32)
    hit = top - caster.cast_rays(o3d.core.Tensor(rays))["t_hit"].numpy()
    assert len(xy) > 500
    # A float32 ray may just miss the edge of a step or box that a grid point lies within 1e-5 m of.
    error = np.abs(hit - ground.height_m[j, i][picked])
    assert np.quantile(error, 0.998) < 2e-5


@pytest.mark.parametrize("kind", KINDS.own)
def test_splats_lie_on_the_mesh_and_face_out(kind, scenes):
    o3d = pytest.importorskip("open3d")
    scene = scenes(kind)
    near = np.linalg.norm(scene.splats.means, axis=1) < 45  # float32 distances to the far dome are coarser
    picked = np.flatnonzero(near)[::5]
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(
        o3d.core.Tensor(scene.mesh.vertices), o3d.core.Tensor(scene.mesh.faces.astype(np.uint32))
    )
    closest = caster.compute_closest_points(o3d.core.Tensor(scene.splats.means[picked]))
    distance = np.linalg.norm(closest["points"].numpy() - scene.splats.means[picked], axis=1)
    assert (
        distance.max() < 2e-4
    )  # Open3D's closest points on long thin triangles are a tenth of a millimetre off
    assert distance.max() < scene.splats.scales[:, 2].min()
    axis = matrix_from_quat_wxyz(scene.splats.quats_wxyz[picked])[:, :, 2]
    normal = closest["primitive_normals"].numpy()
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert (
        np.mean(np.abs((axis * normal).sum(axis=1)) > 0.999) > 0.97
    )  # the rest lie on edges, where either face is closest


@pytest.mark.parametrize("kind", KINDS.own)
def test_surfaces_close_the_view_from_every_path(kind, scenes):
    """From a robot's camera every ray meets the front of a surface (cracks: below 1 ray in 500)."""
    o3d = pytest.importorskip("open3d")
    scene, rng = scenes(kind), np.random.default_rng(1)
    caster = o3d.t.geometry.RaycastingScene()
    caster.add_triangles(
        o3d.core.Tensor(scene.mesh.vertices), o3d.core.Tensor(scene.mesh.faces.astype(np.uint32))
    )
    eyes = scene.paths.points[rng.integers(0, len(scene.paths), 4000), :3] + [0, 0, 0.45]
    rays = rng.normal(size=(4000, 3))
    rays[:, 2] = np.where(rays[:, 2] < 0, rays[:, 2], 0.3 * rays[:, 2])
    hits = caster.cast_rays(o3d.core.Tensor(np.concatenate([eyes, rays], axis=1).astype(np.float32)))
    assert np.isfinite(hits["t_hit"].numpy()).mean() > 0.998
    assert ((hits["primitive_normals"].numpy() * rays).sum(axis=1) < 0).mean() > 0.998


@pytest.mark.parametrize("kind", KINDS.own)
def test_paths_stand_on_known_ground_and_run_forward(kind, scenes):
    scene = scenes(kind)
    paths, ground = scene.paths, scene.heightfield
    np.testing.assert_allclose(paths.points[:, 2], ground.sample(paths.points[:, :2]), atol=1e-4)
    assert ground.is_known(paths.points[:, :2]).all()
    for index in np.unique(paths.path_id):
        line = paths.line(index)
        step = np.diff(line[:, :2], axis=0)
        length = np.linalg.norm(step, axis=1)
        assert length.min() > 0.2
        assert length.max() < 0.3
        assert length.sum() > 12
        forward = np.stack([np.cos(line[:-1, 3]), np.sin(line[:-1, 3])], axis=1)
        assert ((step / length[:, None] * forward).sum(axis=1) > 0.98).all()
    # Each line is walked both ways.
    np.testing.assert_allclose(paths.line(0)[:, :2], paths.line(1)[::-1, :2], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS.own)
def test_ground_beside_paths_is_known_within_their_half_width(kind, scenes):
    paths, ground = scenes(kind).paths, scenes(kind).heightfield
    for side in (-1, 1):
        left = np.stack([-np.sin(paths.points[:, 3]), np.cos(paths.points[:, 3])], axis=1)
        beside = paths.points[:, :2] + side * paths.half_width_m[:, None] * left
        assert ground.is_known(beside).all()
    assert paths.half_width_m.min() >= 0.2


def test_unknown_ground_is_a_wall(scenes):
    ground = scenes("flat").heightfield
    np.testing.assert_allclose(ground.height_m[~ground.known], 1.0, atol=1e-6)
    np.testing.assert_array_equal(ground.height_m[ground.known], 0.0)


def test_stairs_have_the_steps_that_were_asked_for():
    scene = synthesize("stairs", seed=1, step_height_m=0.17, tread_m=0.30, num_steps=4, max_splats=5000)
    ground = scene.heightfield
    row = ground.height_m.shape[0] // 2
    z = ground.height_m[row][ground.known[row]]
    rises = np.diff(z)
    edges = np.flatnonzero(np.abs(rises) > 1e-6)
    np.testing.assert_allclose(np.abs(rises[edges]), 0.17, atol=1e-6)
    assert (np.sign(rises[edges]) == [1] * 4 + [-1] * 4 + [1] * 4 + [-1] * 4).all()
    assert z.max() == pytest.approx(4 * 0.17, abs=1e-6)
    assert np.diff(edges[:4]).tolist() == [6, 6, 6]  # 0.30 m of 0.05 m cells
    # No grid point stands within a fifth of a cell of an edge.
    x = scene.mesh.vertices[np.linalg.norm(scene.mesh.vertices, axis=1) < 45][:, 0]
    offsets = (x - ground.origin_xy_m[0]) / ground.cell_m
    assert np.abs(offsets - np.rint(offsets)).min() > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_stairs_of_many_seeds_lead_ten_metres_up_and_down(seed):
    scene = synthesize("stairs", seed=seed, max_splats=3000)
    arc = scene.paths.arc_length_m()
    for index in np.unique(scene.paths.path_id):
        line, s = scene.paths.line(index), arc[scene.paths.path_id == index]
        starts = np.flatnonzero(s + 10 <= s[-1])
        assert len(starts) > 8
        for start in starts:
            z = line[start : np.searchsorted(s, s[start] + 10) + 1, 2]
            assert np.clip(np.diff(z), 0, None).sum() > 0.4
            assert np.clip(-np.diff(z), 0, None).sum() > 0.4


@pytest.mark.parametrize("seed", [0, 3])
def test_street_paths_are_even_and_cross_no_kerb(seed, scenes):
    scene = scenes("street") if seed == 3 else synthesize("street", seed=seed, max_splats=5000)
    paths, ground = scene.paths, scene.heightfield
    for index in np.unique(paths.path_id):
        line = paths.line(index)
        assert np.abs(np.diff(line[:, 2])).max() < 0.03
        assert np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).sum() > 25
    # Anywhere within the half width, neighbouring grid points differ by less than 3 cm.
    across = np.linspace(-1, 1, 41)[:, None]
    left = np.stack([-np.sin(paths.points[:, 3]), np.cos(paths.points[:, 3])], axis=1)
    where = paths.points[:, :2] + across[..., None] * paths.half_width_m[:, None] * left
    for shift in ((0.05, 0), (0, 0.05)):
        assert np.abs(ground.sample(where + shift) - ground.sample(where)).max() < 0.03
    # A plane through 0.6 m x 0.4 m of it leaves at most 3 cm.
    beyond = ground.sample(
        paths.points[:, :2] + 0.6 * np.stack([np.cos(paths.points[:, 3]), np.sin(paths.points[:, 3])], axis=1)
    )
    assert np.abs(beyond - paths.points[:, 2]).max() < 0.06


def test_street_has_kerbs_beside_the_paths(scenes):
    scene = scenes("street")
    ground, line = scene.heightfield, scene.paths.line(0)
    middle = line[len(line) // 2]
    left = np.array([-np.sin(middle[3]), np.cos(middle[3])])
    profile = ground.sample(middle[:2] + np.linspace(0, 3, 61)[:, None] * left)
    assert 0.09 < np.ptp(profile) < 0.3
    assert np.abs(np.diff(profile)).max() > 0.05


def test_slope_is_as_steep_as_asked():
    scene = synthesize("slope", seed=0, slope_deg=10.0, max_splats=3000)
    line = scene.paths.line(0)
    grade = np.abs(np.diff(line[:, 2])) / np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1)
    assert np.degrees(np.arctan(grade.max())) == pytest.approx(10, abs=0.05)


def test_rubble_stays_below_its_height():
    scene = synthesize("rubble", seed=2, max_height_m=0.1, max_splats=3000)
    z = scene.heightfield.height_m[scene.heightfield.known]
    assert 0.03 < z.max() <= 0.1
    assert z.min() >= -0.1


def test_gaps_grow_as_asked_and_are_deep():
    scene = synthesize("gaps", seed=1, min_gap_m=0.1, max_gap_m=0.5, depth_m=0.7, max_splats=3000)
    ground = scene.heightfield
    row = ground.height_m.shape[0] // 2
    z = ground.height_m[row][ground.known[row]]
    np.testing.assert_allclose(np.unique(z), [-0.7, 0.0], atol=1e-6)
    edges = np.flatnonzero(np.diff(z))
    widths = (edges[1::2] - edges[::2]) * ground.cell_m
    np.testing.assert_allclose(widths, scene.metadata["drawn"]["gaps_m"], atol=1e-6)
    assert (np.diff(widths) >= 0).all()
    assert (widths[0], widths[-1]) == pytest.approx((0.1, 0.5))
    platforms = (edges[2::2] - edges[1:-1:2]) * ground.cell_m
    assert platforms.min() > 0.65


def test_stones_shrink_and_part_and_nothing_else_holds():
    scene = synthesize("stones", seed=1, max_splats=3000)
    ground = scene.heightfield
    z = ground.height_m[ground.known]
    top = z > -0.1
    assert np.abs(z[top]).max() <= 0.02 + 1e-6
    assert np.median(z[~top]) == pytest.approx(-0.6, abs=1e-6)
    assert z[~top].min() >= -0.6 - 1e-6
    x = ground.grid_xy()[..., 0][ground.known]
    pit = (x > 2.2) & (x < scene.metadata["drawn"]["length_m"] - 2.2)
    share = [top[pit & (x > a) & (x < a + 3.0)].mean() for a in (2.2, 9.0)]
    # (size / (size + gap)) squared is 0.83 at first and 0.31 at last.
    assert share[0] > 0.65
    assert 0.2 < share[1] < 0.5
    assert digest(scene) == digest(synthesize("stones", seed=1, max_splats=3000))


@pytest.mark.parametrize("terrain", ["stairs", "slope", "rubble", "gaps", "stones"])
def test_courses_become_harder_level_by_level(terrain):
    """Three lanes apart from each other; the ground varies more from one to the next, and each path knows its level."""
    scene = synthesize("course", seed=1, terrain=terrain, levels=3, max_splats=5000)
    paths, levels = scene.paths, scene.metadata["path_level"]
    assert sorted(levels) == sorted(str(i) for i in np.unique(paths.path_id))
    assert [sum(level == n for level in levels.values()) for n in range(3)] == [6, 6, 6]
    assert len(scene.metadata["drawn"]["levels"]) == 3
    rough, reach = [], []
    for n in range(3):
        mine = paths.points[np.isin(paths.path_id, [int(i) for i, level in levels.items() if level == n])]
        reach.append((mine[:, 1].min(), mine[:, 1].max()))
        ahead = np.linspace(mine[:, 0].min(), mine[:, 0].max(), 800)
        z = scene.heightfield.sample(np.stack(np.broadcast_arrays(ahead, mine[:, 1].mean()), axis=-1))
        pits = terrain in ("gaps", "stones")
        rough.append((z < -0.3).mean() if pits else np.ptp(z) + np.abs(np.diff(z)).sum())
    assert reach[0][1] < reach[1][0]
    assert reach[1][1] < reach[2][0]
    assert rough[0] < rough[1] < rough[2]


def test_stairs_of_a_course_reach_from_5_to_23_cm():
    scene = synthesize("course", seed=0, levels=4, max_splats=5000)
    heights = [level["step_height_m"] for level in scene.metadata["drawn"]["levels"]]
    np.testing.assert_allclose(heights, [0.05, 0.11, 0.17, 0.23])
    for n, rise in enumerate(heights):
        top = scene.paths.line(6 * n)[:, 2].max()
        assert top == pytest.approx(round(top / rise) * rise, abs=1e-5)
        assert 4 <= round(top / rise) <= 6


def test_budget_of_splats_is_kept():
    counts = [len(synthesize("stairs", seed=0, max_splats=n).splats) for n in (3000, 20_000)]
    assert counts[0] <= 3000
    assert 15_000 < counts[1] <= 20_000


@pytest.mark.parametrize(
    ("kind", "params", "message"),
    [
        ("moon", {}, "unknown scene kind 'moon'; choose one of: flat, slope"),
        ("stairs", {"steps": 3}, "stairs has no parameter steps; it has cell_m"),
        ("stairs", {"step_height_m": -0.1}, "step_height_m is -0.1, expected 0.01 to 0.4"),
        ("stairs", {"step_height_m": float("nan")}, "step_height_m is nan"),
        ("stairs", {"step_height_m": "high"}, "must be numbers"),
        ("street", {"length_m": 3}, "length_m is 3, expected 12.0 to 200.0"),
        ("gaps", {"depth_m": 0.2}, "depth_m is 0.2, expected 0.5 to 3.0"),
        ("stones", {"min_size_m": 0.6}, "max_size_m is 0.5, expected 0.6 to 1.0"),
        ("course", {"terrain": "lava"}, "terrain is 'lava', expected one of stairs, slope"),
        ("course", {"levels": 0}, "levels is 0, expected 1 to 50"),
        ("flat", {"seed": -1}, "seed is -1, expected an integer"),
        ("flat", {"max_splats": 5}, "max_splats is 5"),
    ],
)
def test_bad_parameters_are_one_clear_error(kind, params, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        synthesize(kind, **params)


@pytest.mark.parametrize(("kind", "limit_s"), [("street", 12.0), ("stairs", 6.0)])
def test_scenes_are_made_quickly(kind, limit_s):
    """A coarse guard: about 4 s and 1.5 s were measured, of one core's time on a busy machine."""
    start = time.process_time()
    synthesize(kind, seed=1)
    assert time.process_time() - start < limit_s


def test_a_kind_of_another_package(tmp_path, monkeypatch):
    code = "from gaussgym_scene.synth import flat\nKIND = (flat.FlatCfg, lambda cfg, seed: flat.make(cfg, seed + 7))\n"
    install_package(tmp_path, "yard", code, "gaussgym.scenes", yard="yard:KIND")
    monkeypatch.syspath_prepend(tmp_path)
    assert KINDS.names() == [*KINDS.own, "yard"]
    assert digest(synthesize("yard", 1, length_m=5.0)) == digest(synthesize("flat", 8, length_m=5.0))
    with pytest.raises(InputError, match=r"unknown scene kind .moon.; choose one of: flat, .*, yard"):
        synthesize("moon")
