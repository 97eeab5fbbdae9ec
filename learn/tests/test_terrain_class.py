"""Classes of ground: on made-up heightfields, and on procedural scenes that say what they are."""

import numpy as np
import pytest
from gaussgym_learn.evaluation.terrain_class import (
    classes_of_starts,
    classify,
    resampled,
    shortest_ways_m,
    way_of,
)
from gaussgym_scene.heightfield import Heightfield
from gaussgym_scene.paths import Paths
from gaussgym_scene.scene import Scene
from gaussgym_scene.synth import synthesize
from gaussgym_sim.mdp.starts import Starts, sample_starts

CELL = 0.025
LINE = np.array([[1.0, 1.0], [9.0, 1.0]])


def ground(height):
    """Heights by a function of x and y over 10 m by 2 m."""
    x, y = np.meshgrid(np.arange(0, 10.0, CELL), np.arange(0, 2.0, CELL))
    values = np.broadcast_to(height(x, y), x.shape).astype(np.float32)
    return Heightfield(values, CELL, np.zeros(2), np.ones(x.shape, bool))


def blocks(height_m, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, height_m, (20, 100))
    return lambda x, y: coarse[(y / 0.1).astype(int), (x / 0.1).astype(int)]


@pytest.mark.parametrize(
    ("height", "expected"),
    [
        (lambda x, y: 0 * x, "flat"),
        (lambda x, y: 0.03 * x, "flat"),
        (lambda x, y: 0.08 * x, "slope"),
        (lambda x, y: 0.2 * y, "flat"),  # along the side of a hill
        (lambda x, y: 0.1 * np.floor(x), "stairs"),
        (lambda x, y: 0.12 * (x > 5), "stairs"),  # a curb
        (lambda x, y: 0.1 * np.floor(x + 0.2 * y), "stairs"),  # askew
        (lambda x, y: 0.03 * (x > 5), "flat"),  # a door sill, lower than a step
        (blocks(0.08), "rubble"),
        (lambda x, y: 0.03 * np.sin(2 * np.pi * x / 0.8), "rubble"),  # waves, no edges
        (lambda x, y: -0.6 * ((x > 4) & (x < 4.4)), "gaps"),
    ],
)
def test_classes_by_hand(height, expected):
    assert classify(ground(height), LINE) == expected
    assert classify(ground(height), LINE[::-1]) == expected


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("flat", "flat"),
        ("slope", "slope"),
        ("stairs", "stairs"),
        ("rubble", "rubble"),
        ("gaps", "gaps"),
        ("stones", "gaps"),
    ],
)
def test_procedural_scenes_are_what_they_say(kind, expected):
    scene = synthesize(kind, seed=0, max_splats=3000)
    found = classes_of_starts([scene], sample_starts([scene], 12, seed=0))
    assert found.count(expected) >= 11


def test_lines_are_resampled_every_five_centimetres():
    points, left = resampled(np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]]))
    assert len(points) == 41
    assert np.allclose(points[[0, 20, 40]], [[0, 0], [0, 1], [1, 1]])
    assert np.allclose(left[5], [-1, 0])
    assert np.allclose(left[30], [0, 1])


def test_ways_and_their_lengths_by_hand():
    """An L of 2 m + 2 m and a closed square: along, against, and round."""
    corner = [[0, 0], [1, 0], [2, 0], [2, 1], [2, 2]]
    square = [[10, 0], [11, 0], [11, 1], [10, 1]]
    points = np.array([[x, y, 0, 0] for x, y in [*corner, *square]], np.float32)
    paths = Paths(points, np.repeat([0, 1], [5, 4]), np.full(9, 0.5))
    assert way_of(paths, 0, 4, 1).tolist() == corner
    assert way_of(paths, 4, 1, -1).tolist() == corner[:0:-1]
    assert way_of(paths, 7, 5, 1).tolist() == [square[2], square[3], square[0]]
    scene = Scene("l", heightfield=ground(lambda x, y: 0 * x), paths=paths, metadata={})
    starts = Starts(
        np.zeros(2, int), np.array([[0.0, 0.0], [-1.0, 0.0]], np.float32), np.zeros(2, np.float32), np.zeros(2, int),
        np.ones(2, int), np.array([4, 1]), np.ones(2, np.float32),
    )  # fmt: skip
    # Along the line, 4 m; one that starts a metre behind its point has 2 m straight on, though its line has 1 m.
    assert shortest_ways_m([scene], starts, 0.5).tolist() == [3.5, 1.5]
