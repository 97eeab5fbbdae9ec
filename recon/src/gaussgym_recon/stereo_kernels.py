# numpy's and numba's argument types are looser than their stubs.
# pyright: reportCallIssue=false, reportArgumentType=false
# ruff: noqa: ANN001, ANN202
"""The inner loops of stereo: matching costs of slanted windows, propagation between pixels, agreement between views."""

import math

import numpy as np
from numba import njit, prange


@njit(inline="always")
def _random(state):
    """xorshift32; returns the new state and a number in -1..1."""
    state ^= np.uint32(state << np.uint32(13))
    state ^= state >> np.uint32(17)
    state ^= np.uint32(state << np.uint32(5))
    return state, np.float32(state) * np.float32(2.0 / 4294967296.0) - np.float32(1.0)


@njit(fastmath=True)
def _cost(
    images,
    h_fixed,
    h_move,
    nk,
    inverse,
    u,
    v,
    patch,
    weights,
    spots,
    mean,
    deviation,
    total,
    side,
    width,
    height,
):
    """Mean of the two best ``1 - correlation`` over the sources, for the plane ``nk / inverse`` in reference pixels."""
    best, second = np.float32(2.0), np.float32(2.0)
    count = patch.shape[0]
    for s in range(images.shape[0]):
        # Homography of the plane: fixed part + move (x) n / d, on pixel coordinates.
        a0 = h_fixed[s, 0, 0] + h_move[s, 0] * nk[0] * inverse
        a1 = h_fixed[s, 0, 1] + h_move[s, 0] * nk[1] * inverse
        a2 = h_fixed[s, 0, 2] + h_move[s, 0] * nk[2] * inverse
        b0 = h_fixed[s, 1, 0] + h_move[s, 1] * nk[0] * inverse
        b1 = h_fixed[s, 1, 1] + h_move[s, 1] * nk[1] * inverse
        b2 = h_fixed[s, 1, 2] + h_move[s, 1] * nk[2] * inverse
        c0 = h_fixed[s, 2, 0] + h_move[s, 2] * nk[0] * inverse
        c1 = h_fixed[s, 2, 1] + h_move[s, 2] * nk[1] * inverse
        c2 = h_fixed[s, 2, 2] + h_move[s, 2] * nk[2] * inverse
        # The window is convex and so is its picture: where the corners lie inside, all of it does.
        inside = True
        for k in (0, side - 1, count - side, count - 1):
            x, y = u + spots[k, 0] + np.float32(0.5), v + spots[k, 1] + np.float32(0.5)
            w = c0 * x + c1 * y + c2
            px, py = (a0 * x + a1 * y + a2) / w, (b0 * x + b1 * y + b2) / w
            if not (w > 1e-6 and px >= 0.5 and py >= 0.5 and px < width - 0.5 and py < height - 0.5):
                inside = False
        if not inside:
            continue
        s1, s2, sr = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for k in range(count):
            x, y = u + spots[k, 0] + np.float32(0.5), v + spots[k, 1] + np.float32(0.5)
            w = np.float32(1.0) / (c0 * x + c1 * y + c2)
            px = (a0 * x + a1 * y + a2) * w - np.float32(0.5)
            py = (b0 * x + b1 * y + b2) * w - np.float32(0.5)
            ix, iy = np.uint32(np.int32(px)), np.uint32(np.int32(py))
            fx, fy = px - np.float32(ix), py - np.float32(iy)
            p00, p01 = images[s, iy, ix], images[s, iy, ix + np.uint32(1)]
            p10, p11 = images[s, iy + np.uint32(1), ix], images[s, iy + np.uint32(1), ix + np.uint32(1)]
            top = p00 + fx * (p01 - p00)
            value = top + fy * (p10 + fx * (p11 - p10) - top)
            weighted = weights[k] * value
            s1 += weighted
            s2 += weighted * value
            sr += weighted * patch[k]
        cost = np.float32(1.2)
        m = s1 / total
        variance = s2 / total - m * m
        if variance > np.float32(1e-5):
            cost = np.float32(1.0) - (sr / total - m * mean) / (np.sqrt(variance) * deviation)
        if cost < best:
            second = best
            best = cost
        elif cost < second:
            second = cost
    if second > np.float32(1.1):  # only one source sees the whole window
        return best + np.float32(0.15)
    return np.float32(0.5) * (best + second)


@njit(inline="always")
def _window(image, u, v, radius, step, patch, weights, spots):
    """Reference samples around (u, v) with weights that fall with colour difference; mean, deviation, sum of weights."""
    height, width = image.shape
    centre = image[v, u]
    k = 0
    s1, s2, ws = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for dy in range(-radius, radius + 1, step):
        for dx in range(-radius, radius + 1, step):
            x, y = min(max(u + dx, 0), width - 1), min(max(v + dy, 0), height - 1)
            value = image[y, x]
            w = np.exp(-abs(value - centre) * np.float32(6.0))
            patch[k], weights[k] = value, w
            spots[k, 0], spots[k, 1] = x - u, y - v
            s1 += w * value
            s2 += w * value * value
            ws += w
            k += 1
    mean = s1 / ws
    return mean, np.sqrt(max(s2 / ws - mean * mean, np.float32(0.0))), ws


@njit(parallel=True, cache=True, fastmath=True)
def sweep(
    image,
    images,
    h_fixed,
    h_move,
    k_inv,
    depth,
    normal,
    cost,
    candidates,
    color,
    spread,
    radius,
    step,
    seed,
    scale,
) -> None:
    """One half of a red-black round: propagate from neighbours of the other colour, then perturb.

    ``candidates [M, h, w, 4]`` (depth, normal) are tried first; pass an empty array later. ``color`` 2 means all pixels
    without propagation. Images may be ``scale`` (x, y) times as large as the depths: a depth is then that along the ray of the
    image's pixel in the middle of its own.
    """
    rows, columns = depth.shape
    height, width = image.shape
    side = 2 * (radius // step) + 1
    for v in prange(rows):
        patch, weights = np.empty(side * side, np.float32), np.empty(side * side, np.float32)
        spots = np.empty((side * side, 2), np.float32)
        nk = np.empty(3, np.float32)
        n = np.empty(3, np.float32)
        state = np.uint32((v + 1) * 2654435761 + seed * 40503 + color * 97 + 12345)
        for _ in range(4):
            state, _r = _random(state)
        for u in range(columns):
            if color < 2 and (u + v) % 2 != color:
                continue
            at_u, at_v = int((u + 0.5) * scale[0]), int((v + 0.5) * scale[1])
            mean, deviation, total = _window(image, at_u, at_v, radius, step, patch, weights, spots)
            if deviation < 3e-3:
                cost[v, u] = 2.0
                continue
            rx = k_inv[0, 0] * (at_u + 0.5) + k_inv[0, 2]
            ry = k_inv[1, 1] * (at_v + 0.5) + k_inv[1, 2]
            best, z = cost[v, u], depth[v, u]
            b0, b1, b2 = normal[v, u, 0], normal[v, u, 1], normal[v, u, 2]
            tries = candidates.shape[0] if color == 2 else 7
            for t in range(tries):
                if color == 2:
                    zt = candidates[t, v, u, 0]
                    n[0], n[1], n[2] = candidates[t, v, u, 1], candidates[t, v, u, 2], candidates[t, v, u, 3]
                elif t < 4:
                    # The best of three pixels of the other colour in one of four directions.
                    pick_u, pick_v, pick = -1, -1, np.float32(3.0)
                    for far in (1, 3, 7):
                        uu = u + far * ((t == 0) - (t == 1))
                        vv = v + far * ((t == 2) - (t == 3))
                        if 0 <= uu < columns and 0 <= vv < rows and cost[vv, uu] < pick:
                            pick, pick_u, pick_v = cost[vv, uu], uu, vv
                    if pick_u < 0:
                        continue
                    n[0], n[1], n[2] = (
                        normal[pick_v, pick_u, 0],
                        normal[pick_v, pick_u, 1],
                        normal[pick_v, pick_u, 2],
                    )
                    qx = k_inv[0, 0] * (int((pick_u + 0.5) * scale[0]) + 0.5) + k_inv[0, 2]
                    qy = k_inv[1, 1] * (int((pick_v + 0.5) * scale[1]) + 0.5) + k_inv[1, 2]
                    d = depth[pick_v, pick_u] * (n[0] * qx + n[1] * qy + n[2])
                    zt = d / (n[0] * rx + n[1] * ry + n[2])
                else:
                    state, r0 = _random(state)
                    state, r1 = _random(state)
                    state, r2 = _random(state)
                    state, r3 = _random(state)
                    by_depth = spread * r0 if t != 5 else np.float32(0.0)
                    by_normal = 2 * spread if t != 4 else np.float32(0.0)
                    zt = z * (1 + by_depth)
                    n[0], n[1], n[2] = (
                        b0 + by_normal * r1 * 2,
                        b1 + by_normal * r2 * 2,
                        b2 + by_normal * r3 * 2,
                    )
                    length = np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2])
                    n[0], n[1], n[2] = n[0] / length, n[1] / length, n[2] / length
                slope = n[0] * rx + n[1] * ry + n[2]
                if not (zt > 0.05 and zt < 1e4) or slope > -0.03 * np.sqrt(rx * rx + ry * ry + 1):
                    continue
                nk[0] = n[0] * k_inv[0, 0]
                nk[1] = n[1] * k_inv[1, 1]
                nk[2] = n[0] * k_inv[0, 2] + n[1] * k_inv[1, 2] + n[2]
                c = _cost(
                    images, h_fixed, h_move, nk, np.float32(1.0 / (zt * slope)), at_u, at_v, patch, weights, spots, mean,
                    deviation, total, side, width, height,
                )  # fmt: skip
                if c < best:
                    best, z = c, zt
                    b0, b1, b2 = n[0], n[1], n[2]
            cost[v, u], depth[v, u] = best, z
            normal[v, u, 0], normal[v, u, 1], normal[v, u, 2] = b0, b1, b2


@njit(parallel=True, cache=True)
def confirm(
    depth, cost, points_from_ref, depths, ref_from_source, k, max_cost, max_relative, max_px, votes
) -> None:
    """Count the sources whose own depth, carried back, lands on the same pixel at the same depth."""
    height, width = depth.shape
    for v in prange(height):
        for u in range(width):
            votes[v, u] = 0
            z = depth[v, u]
            if cost[v, u] > max_cost or not z > 0:
                continue
            x, y = (u + 0.5 - k[0, 2]) / k[0, 0] * z, (v + 0.5 - k[1, 2]) / k[1, 1] * z
            for s in range(depths.shape[0]):
                t = points_from_ref[s]
                qx = t[0, 0] * x + t[0, 1] * y + t[0, 2] * z + t[0, 3]
                qy = t[1, 0] * x + t[1, 1] * y + t[1, 2] * z + t[1, 3]
                qz = t[2, 0] * x + t[2, 1] * y + t[2, 2] * z + t[2, 3]
                if qz <= 0.05:
                    continue
                iu, iv = math.floor(k[0, 0] * qx / qz + k[0, 2]), math.floor(k[1, 1] * qy / qz + k[1, 2])
                if iu < 0 or iv < 0 or iu >= width or iv >= height:
                    continue
                zs = depths[s, int(iv), int(iu)]
                if not zs > 0 or abs(zs - qz) > 3 * max_relative * qz:
                    continue
                # Where the source's pixel really looks, at the source's depth.
                sx, sy = qx / qz * zs, qy / qz * zs
                b = ref_from_source[s]
                bx = b[0, 0] * sx + b[0, 1] * sy + b[0, 2] * zs + b[0, 3]
                by = b[1, 0] * sx + b[1, 1] * sy + b[1, 2] * zs + b[1, 3]
                bz = b[2, 0] * sx + b[2, 1] * sy + b[2, 2] * zs + b[2, 3]
                if bz <= 0.05:
                    continue
                du = k[0, 0] * bx / bz + k[0, 2] - u - 0.5
                dv = k[1, 1] * by / bz + k[1, 2] - v - 0.5
                if abs(bz - z) < max_relative * z and du * du + dv * dv < max_px * max_px:
                    votes[v, u] += 1
