"""Level of detail: a tree of merged splats, from which a camera takes each part of a scene as coarse as its pixels allow.

The leaves of the tree are the scene's splats, 256 a node, cut by a balanced k-d tree. An inner node holds at most 256 splats that
stand for those of its two children: they are clustered (Ward's criterion on place, colour and orientation) and each cluster
becomes one Gaussian with its mass, mean and covariance. A camera walks down from the root and stops at the first node on each way
whose merging shows less than a threshold in pixels: a cut through the tree, so that every splat of the scene is drawn once, alone
or within one merged splat. The choice depends on the camera and the scene only.

Mass is opacity times footprint. A merged splat may have an opacity above 1: it stands for several opaque splats, each smaller
than a pixel, and is used only where the antialiasing factor brings it below 1 again (as in the hierarchies of Kerbl et al. 2024,
"A Hierarchical 3D Gaussian Representation for Real-Time Rendering of Very Large Datasets").
"""

# Compiled functions are typed by numba from their arguments.
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
from gaussgym_scene import InputError, Splats
from gaussgym_scene.artifact import ArtifactWriter, read_artifact
from gaussgym_scene.frames import matrix_from_quat_wxyz, quat_wxyz_from_matrix
from numpy.typing import NDArray

from gaussgym_render import harmonics, oracle

FORMAT = "gaussgym-lod"
VERSION = 1
MANIFEST = "lod.json"
ARRAYS_FILE = "lod.npz"
NODE_SPLATS = 256
"""Most splats of a node: `atlas.CHUNK`."""
MIN_SCALE_M = 1e-7
MAX_OPACITY = 20.0
"""Bound on the opacity of a merged splat."""

_COLOR_WEIGHT = 8.0  # a difference in colour of 1/8 weighs like the distance between neighbours
_NORMAL_WEIGHT = 1.5  # of the difference between two projectors n·nᵀ
_MATCH_ERROR_PX = 0.35  # opacities are matched where a node's error looks this large …
_MATCH_INCIDENCE = 0.3  # … and its surfaces are seen at this cosine
_LARGE = 3.0  # times the median size
_MIN_ERROR_M = 1e-9  # keeps an inner node apart from a leaf, whose error is 0
_HIDDEN_WEIGHT = 1e-3  # colour weight of what no camera saw, as a share of its mass


@dataclass
class LodSplats:
    """B nodes in pre-order (a node, its left subtree, its right subtree) with M splats; a scene for `SplatRenderer`.

    Attributes:
        means: Centres [m], `[M, 3]` float32, node after node.
        quats_wxyz: Unit quaternions, `[M, 4]`.
        scales: Standard deviations [m], `[M, 3]`.
        opacities: `[M]`; those of merged splats may exceed 1.
        sh: Spherical harmonics, `[M, K, 3]`.
        source: Ranks by which equal depths are ordered, distinct, `[M]` int32: for a leaf's splat its index in the scene that
            the tree was made from.
        node_sizes: Splats of each node, 1 to 256, `[B]`.
        skip: The node that follows a node's subtree, `[B]`; `b + 1` for leaves.
        errors_m: How far a node's merging moved mass, root mean square [m], `[B]`; 0 for leaves, grows towards the root.
        threshold_px: A node is drawn as it is where its error, seen from the nearest point of its box, is at most this [px].
        recipe: How the tree was made, plain values.
    """

    means: NDArray[np.float32]
    quats_wxyz: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    sh: NDArray[np.float32]
    source: NDArray[np.int32]
    node_sizes: NDArray[np.int64]
    skip: NDArray[np.int64]
    errors_m: NDArray[np.float32]
    threshold_px: float
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            dtype = {"source": np.int32, "node_sizes": np.int64, "skip": np.int64}.get(name, np.float32)
            setattr(self, name, np.ascontiguousarray(getattr(self, name), dtype=dtype))
        self.threshold_px = float(self.threshold_px)
        self.validate("level-of-detail splats")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return harmonics.degree_of(self.sh.shape[1])

    @property
    def node_starts(self) -> NDArray[np.int64]:
        """First splat of each node, `[B]`."""
        return np.cumsum(self.node_sizes) - self.node_sizes

    @property
    def is_leaf(self) -> NDArray[np.bool_]:
        """Which nodes hold the scene's own splats, `[B]`."""
        return self.skip == np.arange(len(self.skip)) + 1

    def validate(self, where: str) -> None:
        """Check shapes, values and that the nodes form trees.

        Raises:
            InputError: With `where`, what was found and what was expected.
        """
        m, b = len(self.means), len(self.node_sizes)
        k = self.sh.shape[1] if self.sh.ndim == 3 else 0
        shapes = {
            "means": (m, 3), "quats_wxyz": (m, 4), "scales": (m, 3), "opacities": (m,), "sh": (m, k, 3), "source": (m,),
            "node_sizes": (b,), "skip": (b,), "errors_m": (b,),
        }  # fmt: skip
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise InputError(f"{where}: {name} has shape {values.shape}, expected {shape}; make it again")
            if not np.isfinite(values).all():
                raise InputError(f"{where}: {name} holds NaN or infinite values; make it again")
        if k not in (1, 4, 9, 16):
            raise InputError(
                f"{where}: sh has shape {self.sh.shape}, expected (M, 1 | 4 | 9 | 16, 3); make it again"
            )
        self._validate_values(where)
        self._validate_nodes(where)

    def _validate_values(self, where: str) -> None:
        if len(self) and (self.scales.min() <= 0 or np.linalg.norm(self.quats_wxyz, axis=1).min() < 1e-6):
            raise InputError(
                f"{where}: expected positive scales and quaternions other than zero; make it again"
            )
        if len(self) and (self.opacities.min() < 0 or self.opacities.max() > MAX_OPACITY):
            raise InputError(f"{where}: expected opacities within 0..{MAX_OPACITY:g}; make it again")
        if len(np.unique(self.source)) != len(self) or (len(self) and self.source.min() < 0):
            raise InputError(f"{where}: source repeats a rank or holds a negative one; make it again")
        if not (np.isfinite(self.threshold_px) and self.threshold_px >= 0):
            raise InputError(f"{where}: threshold is {self.threshold_px} px, expected a number of at least 0")

    def _validate_nodes(self, where: str) -> None:
        b = len(self.node_sizes)
        total = int(self.node_sizes.sum())
        if total != len(self) or (
            b and not 1 <= self.node_sizes.min() <= self.node_sizes.max() <= NODE_SPLATS
        ):
            raise InputError(
                f"{where}: nodes of 1 to {NODE_SPLATS} splats should add up to {len(self)}, found {total}; make it again"
            )
        ends = [b]  # of the subtrees that the node lies in
        for i, skip in enumerate(self.skip.tolist()):
            while ends[-1] == i:
                ends.pop()
            if not i < skip <= ends[-1]:
                raise InputError(
                    f"{where}: node {i} is followed by {skip}, which breaks the tree; make it again"
                )
            ends.append(skip)
        if (self.errors_m[self.is_leaf] != 0).any() or (self.errors_m[~self.is_leaf] <= 0).any():
            raise InputError(
                f"{where}: expected errors of 0 for leaves and above 0 for merged nodes; make it again"
            )

    def boxes(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Lowest and highest mean of each node's subtree `[B, 3]`, and its largest standard deviation `[B]` [m]."""
        starts = self.node_starts
        if not len(starts):
            return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros(0, np.float32)
        low = np.minimum.reduceat(self.means, starts)
        high = np.maximum.reduceat(self.means, starts)
        sigma = np.maximum.reduceat(self.scales.max(1), starts)
        for i in np.flatnonzero(~self.is_leaf)[::-1]:
            below = slice(i, self.skip[i])
            low[i], high[i], sigma[i] = low[below].min(0), high[below].max(0), sigma[below].max()
        return low, high, sigma

    def select(self, c2w: NDArray[np.floating], k: NDArray[np.floating]) -> NDArray[np.int64]:
        """Nodes that a camera draws, wherever it looks: the plain twin of what the CPU backend does.

        Args:
            c2w: Camera to world `[4, 4]`.
            k: Calibration matrix `[3, 3]` [px].

        Returns:
            Indices of nodes, ascending; their subtrees hold every leaf once.
        """
        low, high, _ = self.boxes()
        centre, half = (low + high) / 2, (high - low) / 2
        outside = np.maximum(np.abs(np.asarray(c2w)[:3, 3] - centre) - half, 0.0)
        shown = max(k[0, 0], k[1, 1]) * self.errors_m <= self.threshold_px * np.linalg.norm(outside, axis=1)
        chosen, i = [], 0
        while i < len(shown):
            if shown[i]:
                chosen.append(i)
            i = int(self.skip[i]) if shown[i] else i + 1
        return np.array(chosen, np.int64)

    def splats_of(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Indices of the splats of some nodes, in the order of their ranks, which decides between equal depths."""
        chosen = np.zeros(len(self.node_sizes), bool)
        chosen[nodes] = True
        index = np.flatnonzero(np.repeat(chosen, self.node_sizes))
        return index[np.argsort(self.source[index], kind="stable")]

    def take(self, index: NDArray[np.int64], sh: NDArray[np.float32] | None = None) -> oracle.SplatArrays:
        """Some of the splats, such as `oracle.render` reads them.

        Args:
            index: Which, `[n]`.
            sh: Other colours for all splats, `[M, K, 3]`; None: their own.
        """
        return _Cut(
            self.means[index],
            self.quats_wxyz[index],
            self.scales[index],
            self.opacities[index],
            (self.sh if sh is None else sh)[index],
        )

    def save(self, directory: Path | str) -> Path:
        """Write a folder of `lod.npz` and the manifest `lod.json` (hashes, threshold, recipe), whole or not at all.

        Returns:
            The path of the manifest.
        """
        with ArtifactWriter(directory, manifest=MANIFEST, format=FORMAT, version=VERSION) as writer:
            np.savez(writer.path / ARRAYS_FILE, **{name: getattr(self, name) for name in _ARRAYS})
            writer.fields.update(
                threshold_px=self.threshold_px,
                num_splats=int(self.node_sizes[self.is_leaf].sum()),
                num_merged=int(self.node_sizes[~self.is_leaf].sum()),
                recipe=self.recipe,
            )
        return Path(directory) / MANIFEST

    @classmethod
    def load(cls, directory: Path | str) -> LodSplats:
        """Read what `save` wrote, after checking it.

        Raises:
            InputError: If the folder is none, or a file is missing, damaged or of an unknown version.
        """
        directory = Path(directory)
        directory = directory.parent if directory.name == MANIFEST else directory
        fields = read_artifact(directory, manifest=MANIFEST, format=FORMAT, versions=(VERSION,))
        path = directory / ARRAYS_FILE
        if ARRAYS_FILE not in fields["files"]:
            raise InputError(f"{directory / MANIFEST}: lists no {ARRAYS_FILE}, expected one; make it again")
        threshold = fields.get("threshold_px")
        if not isinstance(threshold, int | float):
            raise InputError(
                f"{directory / MANIFEST}: threshold_px is {threshold!r}, expected a number [px]; make it again"
            )
        try:
            with np.load(path, allow_pickle=False) as data:
                arrays = {name: data[name] for name in _ARRAYS}
        except (KeyError, ValueError, OSError, EOFError) as error:
            raise InputError(f"{path}: cannot be read ({error}); make it again") from None
        try:
            return cls(**arrays, threshold_px=float(threshold), recipe=fields.get("recipe", {}))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


_ARRAYS = (
    "means",
    "quats_wxyz",
    "scales",
    "opacities",
    "sh",
    "source",
    "node_sizes",
    "skip",
    "errors_m",
)


@dataclass
class _Cut:
    """Splats as `oracle.SplatArrays`; opacities may exceed 1."""

    means: NDArray[np.float32]
    quats_wxyz: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    sh: NDArray[np.float32]


@dataclass
class Gaussians:
    """N Gaussians by their moments, float64.

    Attributes:
        masses: Opacity times footprint [m²], `[N]`.
        means: `[N, 3]` [m].
        covariances: `[N, 3, 3]` [m²].
        seen: Weights of the colours, `[N]`.
        sh: Spherical harmonics `[N, K, 3]`.
    """

    masses: NDArray[np.float64]
    means: NDArray[np.float64]
    covariances: NDArray[np.float64]
    seen: NDArray[np.float64]
    sh: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.masses)

    @classmethod
    def of(cls, splats: Splats, seen: NDArray[np.floating] | None = None) -> Gaussians:
        """The moments of splats.

        Args:
            splats: N of them.
            seen: How much of each the cameras saw, `[N]`, any unit; None: their masses.
        """
        scales = splats.scales.astype(np.float64)
        factor = matrix_from_quat_wxyz(splats.quats_wxyz) * scales[:, None, :]
        two = np.sort(scales, axis=1)[:, 1:]
        masses = np.maximum(splats.opacities.astype(np.float64), 1e-6) * two[:, 0] * two[:, 1]
        share = masses / max(masses.sum(), 1e-300)
        if seen is None:
            weights = share
        else:
            weights = np.asarray(seen, np.float64) / max(float(np.sum(seen)), 1e-300) + _HIDDEN_WEIGHT * share
        return cls(
            masses,
            splats.means.astype(np.float64),
            factor @ factor.transpose(0, 2, 1),
            weights,
            splats.sh.astype(np.float64),
        )

    def take(self, index: NDArray[np.int64]) -> Gaussians:
        """Some of them."""
        return Gaussians(
            self.masses[index], self.means[index], self.covariances[index], self.seen[index], self.sh[index]
        )

    def join(self, other: Gaussians) -> Gaussians:
        """These, then the others."""
        return Gaussians(
            *(
                np.concatenate([getattr(self, n), getattr(other, n)])
                for n in ("masses", "means", "covariances", "seen", "sh")
            )
        )


def merge(gaussians: Gaussians, labels: NDArray[np.int64], count: int) -> Gaussians:
    """One Gaussian per cluster, with the moments of the mixture.

    With shares `p_i = m_i / Σm`: mean `μ = Σ p_i μ_i`, covariance `Σ p_i (C_i + (μ_i - μ)(μ_i - μ)ᵀ)`; colours are averaged with
    the weights `seen`.

    Args:
        gaussians: N of them.
        labels: Cluster of each, `[N]`, 0 to `count - 1`, none of them empty.
        count: Number of clusters.
    """

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.zeros((count, *values.shape[1:]))
        np.add.at(out, labels, values)
        return out

    masses, seen = total(gaussians.masses), total(gaussians.seen)
    share = gaussians.masses / masses[labels]
    means = total(share[:, None] * gaussians.means)
    offset = gaussians.means - means[labels]
    spread = gaussians.covariances + offset[:, :, None] * offset[:, None, :]
    sh = total((gaussians.seen / seen[labels])[:, None, None] * gaussians.sh)
    return Gaussians(masses, means, total(share[:, None, None] * spread), seen, sh)


def principal_axes(
    covariances: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard deviations `[N, 3]` [m], ascending, and their axes as unit quaternions wxyz `[N, 4]`, of `[N, 3, 3]` [m²]."""
    variances, axes = np.linalg.eigh(covariances)
    axes[:, :, 0] *= np.sign(np.linalg.det(axes))[:, None]
    return np.sqrt(np.maximum(variances, MIN_SCALE_M**2)), np.asarray(quat_wxyz_from_matrix(axes))


def _optical_depth_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Peaks x and `∫₀^∞ -ln(1 - min(0.999, x·e⁻ᵗ)) dt`: a Gaussian's optical depth over `2π·sqrt(det Σ2D)`; grows with x.

    Below 0.999 that is the dilogarithm `Li₂(x)`, by its series; above, the plateau of the clamped alpha adds its length.
    """
    clamp = oracle.MAX_ALPHA
    x = np.concatenate([np.geomspace(1e-9, 0.05, 200), np.linspace(0.05, clamp, 600)[1:]])
    n = np.arange(1, 4000)[:, None]
    depth = np.empty_like(x)
    for part in np.array_split(np.arange(len(x)), 40):
        depth[part] = (np.exp(n * np.log(x[part])) / n**2).sum(0)
    above = np.geomspace(clamp, MAX_OPACITY, 100)[1:]
    return np.concatenate([x, above]), np.concatenate(
        [depth, depth[-1] - np.log(1 - clamp) * np.log(above / clamp)]
    )


def _footprint(
    scales_px: NDArray[np.float64], incidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Antialiasing factor and `sqrt(det(Σ2D + 0.3·I))` [px²] of splats whose two largest axes face the camera at a cosine."""
    major, minor = scales_px[:, 2] ** 2, (scales_px[:, 1] * incidence) ** 2
    blurred = np.sqrt((major + oracle.EPS_2D) * (minor + oracle.EPS_2D))
    return np.maximum(np.sqrt(major * minor) / blurred, oracle.MIN_COMPENSATION), blurred


class _OpacityMatch:
    """Opacities of merged splats that hide as much as what they were merged from, integrated over the image.

    Overlapping splats multiply their transmittances: optical depths add. They are compared at the size at which a node comes into
    use, with the antialiasing factor that each splat has there.
    """

    def __init__(self) -> None:
        self.peaks, self.depths = _optical_depth_table()

    def solve(
        self,
        scales: NDArray[np.float64],
        opacities: NDArray[np.float64],
        labels: NDArray[np.int64],
        merged_scales: NDArray[np.float64],
        px_per_m: float,
    ) -> NDArray[np.float64]:
        """Opacities `[G]` of G merged splats with ascending `merged_scales [G, 3]` [m], from N splats with a cluster each."""
        factor, area = _footprint(np.sort(scales, axis=1) * px_per_m, _MATCH_INCIDENCE)
        depth = np.interp(opacities * factor, self.peaks, self.depths, left=0.0) * area
        wanted = np.bincount(labels, depth, len(merged_scales))
        factor, area = _footprint(merged_scales * px_per_m, _MATCH_INCIDENCE)
        peak = np.interp(wanted / area, self.depths, self.peaks, left=0.0)
        return np.clip(np.minimum(peak, 1.0) / factor, 0.0, MAX_OPACITY)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _nearest(i, features, masses, active, nearest, costs):
    """Find the cluster whose union with cluster i adds least to the squared error (Ward, 1963)."""
    best, best_cost = -1, np.inf
    for j in range(len(masses)):
        if active[j] and j != i:
            d = 0.0
            for c in range(features.shape[1]):
                d += (features[i, c] - features[j, c]) ** 2
            cost = masses[i] * masses[j] / (masses[i] + masses[j]) * d
            if cost < best_cost:
                best, best_cost = j, cost
    nearest[i], costs[i] = best, best_cost


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _ward(features, masses, count, labels):
    """Join clusters of `features [N, D]` until `count` are left; fills `labels [N]` with 0 … count - 1."""
    n = len(masses)
    active = np.ones(n, np.bool_)
    nearest, costs = np.empty(n, np.int64), np.empty(n, np.float64)
    for i in range(n):
        labels[i] = i
        _nearest(i, features, masses, active, nearest, costs)
    for _ in range(n - count):
        i = -1
        for j in range(n):
            if active[j] and (i < 0 or costs[j] < costs[i]):
                i = j
        gone = nearest[i]
        total = masses[i] + masses[gone]
        for c in range(features.shape[1]):
            features[i, c] = (masses[i] * features[i, c] + masses[gone] * features[gone, c]) / total
        masses[i] = total
        active[gone] = False
        for j in range(n):
            if labels[j] == gone:
                labels[j] = i
        _nearest(i, features, masses, active, nearest, costs)
        for j in range(n):
            # Joining two clusters never brings their union nearer to a third (Ward's criterion is reducible).
            if active[j] and j != i and (nearest[j] == i or nearest[j] == gone):
                _nearest(j, features, masses, active, nearest, costs)
    number = np.full(n, -1, np.int64)
    used = 0
    for j in range(n):
        if number[labels[j]] < 0:
            number[labels[j]] = used
            used += 1
        labels[j] = number[labels[j]]


def cluster(gaussians: Gaussians, count: int) -> NDArray[np.int64]:
    """Group Gaussians that lie close together, look alike and face the same way.

    Args:
        gaussians: N of them.
        count: Clusters wanted, at most N.

    Returns:
        Cluster of each, `[N]`, 0 to `count - 1`.
    """
    n = len(gaussians)
    means = gaussians.means - gaussians.means.mean(0)
    squares = (means**2).sum(1)
    apart = np.maximum(squares[:, None] + squares - 2.0 * means @ means.T, 0.0)
    np.fill_diagonal(apart, np.inf)
    spacing = max(float(np.sqrt(np.median(apart.min(1)))), 1e-9)
    variances, axes = np.linalg.eigh(gaussians.covariances)
    normal = axes[:, :, 0] * (1.0 - variances[:, :1] / np.maximum(variances[:, 1:2], 1e-30)) ** 0.5
    facing = (normal[:, :, None] * normal[:, None, :]).reshape(n, 9)
    colors = np.clip(0.5 + harmonics.C0 * gaussians.sh[:, 0], 0.0, 1.0)
    features = np.concatenate([means / spacing, _COLOR_WEIGHT * colors, _NORMAL_WEIGHT * facing], axis=1)
    labels = np.empty(n, np.int64)
    _ward(np.ascontiguousarray(features), gaussians.masses / gaussians.masses.mean(), count, labels)
    return labels


def build_tree(
    splats: Splats,
    *,
    source: NDArray[np.integer] | None = None,
    seen: NDArray[np.floating] | None = None,
    threshold_px: float = 0.0,
    node_splats: int = NODE_SPLATS,
) -> LodSplats:
    """Make the tree of merged splats of a scene.

    Args:
        splats: N splats, none allowed.
        source: Index of each splat in the scene it was taken from, `[N]`, distinct; None: 0 to N - 1.
        seen: How much of each splat cameras saw, `[N]`, any unit: weights of the colours in a merged splat. None: its mass.
        threshold_px: See `LodSplats`.
        node_splats: Most splats of a node, up to 256.

    Returns:
        The tree; with a threshold of 0 it renders as `splats` does, bit for bit.
    """
    n = len(splats)
    ranks = np.arange(n, dtype=np.int64) if source is None else np.asarray(source, np.int64)
    builder = _TreeBuilder(splats, ranks, Gaussians.of(splats, seen), node_splats)
    if n:
        builder.add(np.arange(n))
    return builder.finish(threshold_px)


class _TreeBuilder:
    """Adds nodes in pre-order; holds the lists that grow with them."""

    def __init__(
        self, splats: Splats, ranks: NDArray[np.int64], gaussians: Gaussians, node_splats: int
    ) -> None:
        self.splats, self.ranks, self.gaussians, self.node_splats = splats, ranks, gaussians, node_splats
        self.match = _OpacityMatch()
        self.next_rank = int(ranks.max(initial=-1)) + 1
        self.parts: list[tuple[NDArray[Any], ...]] = []
        self.skip: list[int] = []
        self.errors_m: list[float] = []

    def add(self, index: NDArray[np.int64]) -> tuple[Gaussians, NDArray[np.int64], NDArray[np.float64]]:
        """Add the subtree of some splats.

        Returns:
            The Gaussians of its root, the one that each splat went into `[n]`, and each one's squared displacement [m²]: mass
            times squared distance of what was merged into it, over its mass.
        """
        node = len(self.parts)
        self.parts.append(())
        self.skip.append(0)
        self.errors_m.append(0.0)
        if len(index) <= self.node_splats:
            s = self.splats
            # In the order of the scene: what lies close together is stored close together.
            self.parts[node] = (
                s.means[index], s.quats_wxyz[index], s.scales[index], s.opacities[index], s.sh[index], self.ranks[index],
            )  # fmt: skip
            self.skip[node] = node + 1
            return self.gaussians.take(index), np.arange(len(index)), np.zeros(len(index))
        near, far = self._split(index)
        left, left_labels, left_moved = self.add(index[near])
        right, right_labels, right_moved = self.add(index[far])
        self.skip[node] = len(self.parts)
        labels = np.empty(len(index), np.int64)
        labels[near], labels[far] = left_labels, right_labels + len(left)
        return self._merge_node(
            node, index, left.join(right), labels, np.concatenate([left_moved, right_moved])
        )

    def _split(self, index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Cut along the longest side of the box, in whole nodes, into positions within `index`."""
        if len(self.parts) == 1:
            # Large splats apart from the start: in boxes of their own they neither widen those of small ones nor merge with them.
            large = self.splats.scales[index].max(1)
            large = large > _LARGE * np.median(large)
            if large.any():
                return np.flatnonzero(~large), np.flatnonzero(large)
        points = self.splats.means[index]
        order = np.argsort(points[:, int(np.argmax(np.ptp(points, axis=0)))], kind="stable")
        nodes = -(-len(index) // self.node_splats)
        at = (nodes // 2) * self.node_splats
        return order[:at], order[at:]

    def _merge_node(
        self,
        node: int,
        index: NDArray[np.int64],
        children: Gaussians,
        labels: NDArray[np.int64],
        moved: NDArray[np.float64],
    ) -> tuple[Gaussians, NDArray[np.int64], NDArray[np.float64]]:
        """Fill an inner node from the Gaussians of its two children."""
        count = min(self.node_splats, -(-len(children) // 2))
        groups = cluster(children, count)
        merged = merge(children, groups, count)
        share = children.masses / merged.masses[groups]
        step = ((children.means - merged.means[groups]) ** 2).sum(1)
        moved = np.bincount(groups, share * (moved + step), count).astype(np.float64)
        labels = groups[labels]
        below = max(self.errors_m[node + 1], self.errors_m[self.skip[node + 1]])
        error_m = max(float(np.sqrt(np.average(moved, weights=merged.masses))), below, _MIN_ERROR_M)
        scales, quats = principal_axes(merged.covariances)
        opacities = self.match.solve(
            self.splats.scales[index].astype(np.float64), self.splats.opacities[index].astype(np.float64), labels, scales,
            _MATCH_ERROR_PX / error_m,
        )  # fmt: skip
        ranks = np.arange(self.next_rank, self.next_rank + count)
        self.next_rank += count
        self.parts[node] = (merged.means, quats, scales, opacities, merged.sh, ranks)
        self.errors_m[node] = error_m
        return merged, labels, moved

    def finish(self, threshold_px: float) -> LodSplats:
        """The tree."""
        empty = (
            np.zeros((0, 3)),
            np.zeros((0, 4)),
            np.zeros((0, 3)),
            np.zeros(0),
            self.splats.sh[:0],
            np.zeros(0, int),
        )
        columns = [np.concatenate(column) for column in zip(empty, *self.parts)]
        sizes = np.array([len(part[0]) for part in self.parts], np.int64)
        return LodSplats(
            *columns, node_sizes=sizes, skip=np.array(self.skip, np.int64), errors_m=np.array(self.errors_m),
            threshold_px=threshold_px,
        )  # fmt: skip
