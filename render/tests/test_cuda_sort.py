"""Sorting on the device: the twin, and the block kernels themselves on Warp's CPU fibers, against numpy."""

from functools import cache

import numpy as np
import pytest

wp = pytest.importorskip("warp")

from gaussgym_render.cuda import block, sort  # noqa: E402

DEVICE = {"name": "cpu"}
from gaussgym_scene.errors import InputError  # noqa: E402


@pytest.fixture(
    params=[
        "forwards",
        pytest.param("backwards", marks=pytest.mark.slow),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ]
)
def blocks(request, monkeypatch):
    """Block kernels on CPU fibers, in either order of threads between barriers, and on a GPU."""
    monkeypatch.setattr(wp.config, "enable_cpu_blocks", True)
    monkeypatch.setitem(DEVICE, "name", "cuda" if request.param == "cuda" else "cpu")
    if request.param == "backwards":
        monkeypatch.setattr(sort, "BLOCK_KERNELS", backwards_kernels())


@cache
def backwards_kernels():
    """Made once: they are compiled."""
    assert block.BACKWARDS != block.PRELUDE
    return sort.make_block_kernels(block.BACKWARDS)


def on_device(array):
    """An array of 32-bit numbers as a Warp array of int32."""
    return wp.array(np.ascontiguousarray(array).view(np.int32), dtype=int, device=DEVICE["name"])


def sorted_pairs(lengths, keys, values, buffers=None, **ties):
    """Keys (uint32) and values of segments after `sort_segments`."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    buffers = buffers or sort.SortBuffers.create(len(lengths), max(len(keys), 1), DEVICE["name"])
    keys, values = on_device(np.asarray(keys, np.uint32)), on_device(np.asarray(values, np.int32))
    sort.sort_segments(on_device(offsets), keys, values, buffers, **ties)
    return keys.numpy().view(np.uint32), values.numpy()


def check(lengths, keys, seed=0):
    """Compare with `np.lexsort`, and see that what lies behind the last segment is left alone."""
    total = int(np.sum(lengths))
    keys = np.asarray(keys(np.random.default_rng(seed), total + 3)).astype(np.uint32)
    values = np.random.default_rng(seed + 1).permutation(total + 3).astype(np.int32)
    found_keys, found_values = sorted_pairs(lengths, keys, values)
    segment = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), np.full(3, len(lengths))])
    order = np.lexsort((values, keys, segment))
    order[total:] = np.arange(total, total + 3)
    np.testing.assert_array_equal(found_keys, keys[order])
    np.testing.assert_array_equal(found_values, values[order])


def depths(rng, count):
    return rng.uniform(0.5, 60.0, count).astype(np.float32).view(np.uint32)


def any_bits(rng, count):
    return rng.integers(0, 2**32, count, dtype=np.uint64)


def sixteen_bits(rng, count):
    return rng.integers(0, 2**16, count)


def few_depths(rng, count):
    return rng.integers(0, 5, count) * 100_003


def one_depth(rng, count):
    return np.full(count, 0xFFFFFFFF, np.uint32)  # what pads a tile has this key too


def descending(rng, count):
    return np.arange(count, 0, -1)


KEYS = [depths, any_bits, sixteen_bits, few_depths, one_depth, descending]


def test_hand_made_segments(blocks):
    keys, values = sorted_pairs([3, 0, 1, 4], [5, 2, 5, 9, 1, 1, 1, 0], [8, 6, 7, 1, 40, 20, 30, 50])
    assert keys.tolist() == [2, 5, 5, 9, 0, 1, 1, 1]
    assert values.tolist() == [6, 7, 8, 1, 50, 20, 30, 40]


@pytest.mark.parametrize("keys", KEYS)
def test_plain_twin(keys):
    assert not block.can_run_blocks(wp.get_device("cpu"))
    check([0, 1, 2, 33, 700, 0], keys)


@pytest.mark.parametrize("keys", KEYS)
def test_blocks_of_every_tier(blocks, keys):
    """Lengths at both ends of every tier, and a partly filled warp."""
    check([0, 1, 2, 3, 33, 255, 1024], keys)
    check([1025, 2048, 2049, 4096], keys)
    check([4097, 8192], keys)


@pytest.mark.parametrize("keys", KEYS)
def test_long_segments(blocks, keys):
    """Buckets that fit a tile, and such that hold most of a segment (few depths: sorted by the bits of values too)."""
    check([8193, 0, 30_001], keys)


@pytest.mark.parametrize("keys", [few_depths, one_depth, depths])
def test_ties_by_other_numbers(blocks, keys):
    check_numbers([5, 900, 2000, 12_000], keys)


def check_dropped_bits(lengths):
    """Depths that differ below the dropped bits are ties."""
    rng = np.random.default_rng(6)
    keys, values = depths(rng, sum(lengths)), rng.permutation(sum(lengths)).astype(np.int32)
    kept = keys >> 12 << 12
    assert len(np.unique(kept)) < len(np.unique(keys))
    order = np.lexsort((values, kept, np.repeat(np.arange(len(lengths)), lengths)))
    found = sorted_pairs(lengths, keys, values, drop=12)
    np.testing.assert_array_equal(found[0], kept[order])
    np.testing.assert_array_equal(found[1], values[order])


def test_dropped_bits(blocks):
    check_dropped_bits([700, 3000, 20_000])


def test_dropped_bits_in_the_twin():
    check_dropped_bits([700, 3000])


def test_ties_by_other_numbers_in_the_twin():
    check_numbers([5, 900, 3000], few_depths)


def check_numbers(lengths, keys):
    """As splats are: a value names a record, that its splat's slot, and that its place in the input."""
    rng = np.random.default_rng(4)
    total = sum(lengths)
    keys, values = keys(rng, total).astype(np.uint32), rng.permutation(total).astype(np.int32)
    slots = rng.permutation(2 * total)[:total].astype(np.int32)
    numbers = rng.permutation(2 * total).astype(np.int32)
    segment = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((numbers[slots[values]], keys, segment))
    found = sorted_pairs(lengths, keys, values, slots=on_device(slots), numbers=on_device(numbers))
    np.testing.assert_array_equal(found[0], keys[order])
    np.testing.assert_array_equal(found[1], values[order])


def test_long_segment_with_one_crowded_bucket(blocks):
    """A wall at one depth, and a few splats far before and behind it."""

    def wall(rng, count):
        keys = np.float32(3.0) + rng.normal(0.0, 1e-5, count).astype(np.float32)
        keys[rng.integers(0, count, count // 5)] = 0.02
        keys[rng.integers(0, count, 50)] = 900.0
        return keys.view(np.uint32)

    check([25_000], wall)


def test_negative_values_and_repeated_pairs(blocks):
    keys = np.tile(np.array([4, 4, 1], np.uint32), 4000)
    values = np.tile(np.array([-3, 5, -3], np.int32), 4000)
    for length in (3000, 12_000):
        order = np.lexsort((values[:length], keys[:length]))
        found = sorted_pairs([length], keys[:length], values[:length])
        np.testing.assert_array_equal(found[0], keys[:length][order])
        np.testing.assert_array_equal(found[1], values[:length][order])


def test_buffers_serve_again(blocks):
    buffers = sort.SortBuffers.create(4, 10_000, DEVICE["name"])
    for seed in range(3):
        rng = np.random.default_rng(seed)
        lengths = [100 * seed, 1500, 7000 - seed]
        keys, values = depths(rng, sum(lengths)), rng.permutation(sum(lengths)).astype(np.int32)
        found, _ = sorted_pairs(lengths, keys, values, buffers)
        begin = 0
        for length in lengths:
            np.testing.assert_array_equal(
                found[begin : begin + length], np.sort(keys[begin : begin + length])
            )
            begin += length


def test_small_buffers_are_refused():
    buffers = sort.SortBuffers.create(1, 10, "cpu")
    with pytest.raises(InputError, match="2 segments of 11 pairs do not fit"):
        sorted_pairs([5, 6], np.zeros(11, np.uint32), np.zeros(11, np.int32), buffers)


def compile_all(arch, folder):
    """Compile every sorting kernel to PTX."""
    for kernel, threads in sort.BLOCK_KERNELS.items():
        kernel.module.options["block_dim"] = threads
        wp.compile_aot_module(kernel.module, arch=arch, module_dir=folder / kernel.key, use_ptx=True)
        (ptx,) = (folder / kernel.key).glob("*.ptx")
        text = ptx.read_text()
        assert f".target sm_{arch}" in text
        assert f".entry {kernel.key}_" in text
        assert f".maxntid {threads}" in text
        assert "__local_depot" not in text  # a thread's pairs stay in registers
    wp.compile_aot_module("gaussgym_render.cuda.sort", arch=arch, module_dir=folder / "plain", use_ptx=True)


@pytest.mark.parametrize(
    "arch", [80, 120, *(pytest.param(arch, marks=pytest.mark.slow) for arch in (86, 89, 90))]
)
def test_kernels_compile_ahead_of_time(tmp_path, arch):
    compile_all(arch, tmp_path)
