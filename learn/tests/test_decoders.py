"""Auxiliary decoders: losses by hand, shapes, and that they learn."""

import math

import pytest
import torch
from gaussgym_learn.decoders import (
    HeightMapDecoder,
    VectorDecoder,
    VoxelDecoder,
    build_decoder,
    voxel_loss,
    voxel_targets,
)
from gaussgym_scene.errors import InputError

GRID = {"grid": (9, 7), "levels": 24, "limit": 2.0}


def test_voxel_targets_by_hand():
    # Four voxels over -2..2, one unit each: -2..-1, -1..0, 0..1, 1..2.
    heights = torch.tensor([-1.5, -0.25, 0.0, 1.75, 2.0, -2.0, 3.0])
    voxel, place, inside = voxel_targets(heights, 4, 2.0)
    assert voxel.tolist() == [0, 1, 2, 3, 3, 0, 3]
    assert place.tolist() == [0.5, 0.75, 0.0, 0.75, 1.0, 0.0, 1.0]
    assert inside.tolist() == [True, True, True, True, False, False, False]


def test_voxel_loss_by_hand():
    # Two columns of two voxels over -1..1; the second column is saturated and counts for nothing.
    logits = torch.tensor([[0.0, 2.0], [9.0, -9.0]])
    place = torch.tensor([[7.0, 0.5], [0.0, 0.0]])
    heights = torch.tensor([0.25, 1.0])  # first: upper voxel, a quarter up
    found = voxel_loss(logits, place, heights, 1.0)
    entropy = (-math.log(0.5) - math.log(1 / (1 + math.exp(-2.0)))) / 2  # empty at 0, occupied at 2
    assert float(found) == pytest.approx(entropy + (0.5 - 0.25) ** 2, rel=1e-6)


def test_voxel_loss_against_a_slow_twin():
    g = torch.Generator().manual_seed(0)
    logits, place = (torch.randn(3, 5, 6, generator=g) for _ in range(2))
    heights = torch.randn(3, 5, generator=g) * 1.5
    total, count = 0.0, 0
    for i in range(3):
        for j in range(5):
            h = float(heights[i, j])
            if not -2 < h < 2:
                continue
            count += 1
            occupied = int((h + 2) // (4 / 6))
            for k in range(6):
                p = 1 / (1 + math.exp(-float(logits[i, j, k])))
                total -= math.log(p if k == occupied else 1 - p) / 6
            total += (float(place[i, j, occupied]) - ((h + 2) / (4 / 6) - occupied)) ** 2
    assert 0 < count < 15
    assert float(voxel_loss(logits, place, heights, 2.0)) == pytest.approx(total / count, rel=1e-5)


def test_columns_all_at_the_limit_give_no_loss_and_no_gradient():
    logits = torch.randn(2, 3, requires_grad=True)
    loss = voxel_loss(logits, torch.randn(2, 3), torch.full((2,), 2.0), 2.0)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not logits.grad.any()


@pytest.mark.parametrize("kind", ["vector", "height_map"])
def test_mean_squared_error_by_hand(kind):
    decoder = build_decoder(kind, 4, 6, grid=(3, 2), levels=4, limit=2.0)
    with torch.no_grad():
        for p in decoder.parameters():
            p.zero_()
        last = decoder[2] if kind == "vector" else decoder.trunk.finish
        last.bias.fill_(0.5)
    target = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.5, 2.5]])
    assert float(decoder.loss(torch.ones(1, 4), target).detach()) == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("kind", "cls"), [("vector", VectorDecoder), ("height_map", HeightMapDecoder), ("voxels", VoxelDecoder)]
)
def test_any_leading_shape_and_a_gradient_into_the_memory(kind, cls):
    torch.manual_seed(0)
    decoder = build_decoder(kind, 16, 63, **GRID)
    assert isinstance(decoder, cls)
    memory = torch.randn(4, 3, 16, requires_grad=True)
    out = decoder(memory)
    if kind == "voxels":
        assert out[0].shape == out[1].shape == (4, 3, 63, 24)
        assert torch.allclose(decoder(memory[1])[0], out[0][1], atol=1e-6)
    else:
        assert out.shape == (4, 3, 63)
        assert torch.allclose(decoder(memory[1]), out[1], atol=1e-6)
    decoder.loss(memory, torch.randn(4, 3, 63)).backward()
    assert (memory.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("kind", ["height_map", "voxels"])
def test_a_decoder_learns_where_a_step_is(kind):
    """Memory says how far ahead a step down is and how deep; heights follow within a few epochs, row by row."""
    torch.manual_seed(0)
    decoder = build_decoder(kind, 10, 63, **GRID)
    row = torch.arange(63) % 9
    depth = 0.3 + 1.2 * torch.rand(63)
    memory = torch.cat([torch.nn.functional.one_hot(row, 9).float(), depth[:, None]], dim=1)
    target = (
        ((torch.arange(9)[None] >= row[:, None]) * depth[:, None])[:, :, None].expand(-1, -1, 7).flatten(1)
    )
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(80):
        loss = decoder.loss(memory, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = decoder.heights(memory) if kind == "voxels" else decoder(memory)
    assert (found - target).abs().mean() < 0.1


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"grid of 9x7, the group has 60 values; set aux_grid"):
        build_decoder("height_map", 8, 60, **GRID)
    with pytest.raises(
        InputError, match="unknown aux_kind 'mesh'; choose one of: vector, height_map, voxels"
    ):
        build_decoder("mesh", 8, 63, **GRID)
    with pytest.raises(InputError, match="1 levels"):
        build_decoder("voxels", 8, 63, grid=(9, 7), levels=1, limit=2.0)
