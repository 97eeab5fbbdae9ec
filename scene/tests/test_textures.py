import numpy as np
import pytest
from gaussgym_scene import materials
from gaussgym_scene import textures as tx
from gaussgym_scene.errors import InputError

MATERIALS = [
    materials.cobbles,
    materials.slabs,
    materials.gravel,
    materials.grass,
    materials.concrete,
    materials.bricks,
    materials.planks,
    materials.carpet,
    materials.tiles,
]


@pytest.mark.parametrize("material", MATERIALS, ids=lambda m: m.__name__)
def test_materials_fill_their_area_with_contrast(material):
    paint = material((1.2, 2.0), 0.01, np.random.default_rng(0))
    assert paint.shape == (120, 200, 3)
    assert np.isfinite(paint).all()
    gray = tx.finish(paint).mean(axis=2)
    assert gray.std() > 6  # of 255: enough for feature detectors
    assert 30 < gray.mean() < 225


@pytest.mark.parametrize(
    "material",
    [materials.cobbles, materials.slabs, materials.bricks, materials.concrete, materials.carpet],
    ids=lambda m: m.__name__,
)
def test_materials_do_not_repeat(material):
    """No shift of a window over the area finds the same picture again: matching would be ambiguous."""
    gray = material((2.0, 6.0), 0.01, np.random.default_rng(1)).mean(axis=2)
    size = 60
    windows = np.lib.stride_tricks.sliding_window_view(gray, (size, size))[::2, ::2]
    flat = windows.reshape(-1, size * size)
    flat = (flat - flat.mean(axis=1, keepdims=True)) / (flat.std(axis=1, keepdims=True) + 1e-9)
    y, x = (70 // 2, 200 // 2)
    score = (flat @ flat[y * windows.shape[1] + x] / size**2).reshape(windows.shape[:2])
    assert score[y, x] == pytest.approx(1, abs=1e-4)
    score[max(0, y - 8) : y + 9, max(0, x - 8) : x + 9] = 0
    assert score.max() < 0.8


@pytest.mark.parametrize(("cell", "octaves"), [(40.0, 1), (40.0, 5), (7.3, 2), (3.0, 1)])
def test_noise_has_the_promised_spread(cell, octaves):
    values = np.concatenate(
        [
            tx.noise((150, 173), np.random.default_rng(seed), cell_px=cell, octaves=octaves).ravel()
            for seed in range(12)
        ]
    )
    assert values.size == 12 * 150 * 173
    assert abs(values.mean()) < 0.15
    assert 0.7 < values.std() < 1.3


def test_grain_keeps_contrast_everywhere():
    layer = tx.grain("gravel.png", (500, 700), np.random.default_rng(0), zoom=0.4)
    assert layer.shape == (500, 700)
    rows = layer.reshape(10, 50, 14, 50).std(axis=(1, 3))
    assert rows.min() > 0.6
    assert rows.max() < 1.4


def test_wrapped_strip_has_no_seam():
    rng = np.random.default_rng(0)
    strip = tx.noise((40, 300 + 60), rng, cell_px=30, octaves=2)
    wrapped = tx.around(strip, 300)
    assert wrapped.shape == (40, 300)
    inner = np.abs(np.diff(wrapped, axis=1)).max()
    assert np.abs(wrapped[:, 0] - wrapped[:, -1]).max() < 1.5 * inner


def test_same_seed_same_paint_other_seed_other_paint():
    a, b, c = (materials.cobbles((1.0, 1.0), 0.01, np.random.default_rng(seed)) for seed in (4, 4, 5))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).mean() > 0.02


def test_missing_photograph_is_one_clear_error():
    with pytest.raises(InputError, match=r"no_such\.png: not found, expected scikit-image to ship it"):
        tx.photo("no_such.png")


def test_missing_scikit_image_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'gaussgym-scene\[textures\]'"):
        tx.photo.__wrapped__("gravel.png")


def test_no_two_paintings_are_alike():
    """Their fine structure, which feature matching goes by, does not correlate in any of the turns that it allows for."""
    rng = np.random.default_rng(0)
    painted = [
        tx.painting(np.ones((120, 120, 3), np.float32), rng, box=(10, 10, 110, 110))[20:100, 20:100].mean(
            axis=2
        )
        for _ in range(6)
    ]
    fine = [np.diff(np.diff(image, axis=0), axis=1) for image in painted]
    for i, one in enumerate(fine):
        assert one.std() > 0.01
        for other in fine[i + 1 :]:
            for turn in range(4):
                assert abs(np.corrcoef(one.ravel(), np.rot90(other, turn).ravel())[0, 1]) < 0.1
