"""Splat trainer: boxed in time or in steps, resumable after a kill, without a GPU (numba kernels) or with one (gsplat).

What it takes from the literature: the loss and the clone/split moves of 3DGS (Kerbl et al. 2023), growth by a budget sampled
from image-plane gradients (Taming-3DGS, Mallick et al. 2024), gradients that do not cancel between tiles (AbsGS, Ye et al.
2024), opacity of clones and, where asked for, relocation after 3DGS-MCMC (Kheradmand et al. 2024), flat splats (PGSR, Chen et
al. 2024), per-image exposure (Kerbl et al. 2024), Adam on visible splats only (Taming-3DGS). Its own: step sizes in pixels of
the finest level, so that a street of 200 m and a room of 5 m train with the same numbers.

The parts, by what they own, lie in ``training/``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from gaussgym_render.differentiable import raster_backward, raster_forward
from gaussgym_scene.errors import InputError
from numpy.typing import NDArray

from gaussgym_recon.training.cfg import TrainerCfg
from gaussgym_recon.training.checkpoint import TrainingState, load_state, save_state
from gaussgym_recon.training.engines import Engine, Frame, NumbaEngine
from gaussgym_recon.training.exposure import Exposures
from gaussgym_recon.training.growth import grow_by_pull, prune, relocate, shake
from gaussgym_recon.training.model import SplatModel, model_from_points, render_splats, sigmoid
from gaussgym_recon.training.optimizer import schedule
from gaussgym_recon.training.poses import PoseRefinement
from gaussgym_recon.training.surfaces import MeasuredSurfaces
from gaussgym_recon.views import Views, psnr_db

__all__ = ["SplatModel", "Trainer", "TrainerCfg", "model_from_points", "render_splats"]

Floats = NDArray[np.floating]

RISE_DB = 0.02
"""A scoring counts as a new best when it is better by this."""


class Trainer:
    """Optimizes a splat model against the training views; owns the loop, the budget and the checkpoint.

    Args:
        views: Photographs and cameras; held-out views are only scored.
        model: Splats to start from.
        cfg: Settings.
        checkpoint: File to save to and resume from, or None.
        depths_m: Measured depth ``[h, w]`` by view (0 = unknown, any level's size), for the depth loss, or None.
        normals_w: Measured unit normals ``[h, w, 3]`` by view in the world, or None: then they come from the depths.
        engine: Computes the steps; None for the one that ``cfg`` names.

    Raises:
        InputError: There are fewer than two training views, the checkpoint does not fit, or the engine cannot run here.
    """

    def __init__(
        self,
        views: Views,
        model: SplatModel,
        cfg: TrainerCfg,
        *,
        checkpoint: Path | None = None,
        depths_m: dict[int, Floats] | None = None,
        normals_w: dict[int, Floats] | None = None,
        engine: Engine | None = None,
    ) -> None:
        if len(views.train) < 2:
            raise InputError(
                f"training needs at least 2 photographs that are not held out, found {len(views.train)}"
            )
        self.views, self.cfg, self.checkpoint = views, cfg, checkpoint
        self.surfaces = MeasuredSurfaces(depths_m or {}, normals_w)
        self.engine: Engine = engine or make_engine(cfg)
        self.rng = np.random.default_rng(cfg.seed)
        self.iteration = 0
        self.elapsed_s = 0.0
        self.cpu_s = 0.0
        self.losses: list[tuple[int, float]] = []
        self.scores_db: list[tuple[int, float]] = []
        self.stopped_early = False
        self._next_score = cfg.densify_until
        self._order: list[int] = []
        self.exposures = Exposures(len(views.views), views.train)
        self._focal_px = np.array([views.camera(i).fx for i in views.train])
        model.footprint = self._footprints(model.means)
        self.poses = PoseRefinement(
            np.stack([v.c2w for v in views.views]), views.train,
            m_per_px=float(np.median(model.footprint)), rad_per_px=float(1 / np.median(self._focal_px)),
        )  # fmt: skip
        self.engine.load(model)
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)

    @property
    def model(self) -> SplatModel:
        """The splats as they are now; others may be put in their place."""
        return self.engine.store()

    @model.setter
    def model(self, value: SplatModel) -> None:
        self.engine.load(value)

    @property
    def exposure(self) -> NDArray[np.float64]:
        """Logarithmic gains and offsets of each view ``[n, 6]``."""
        return self.exposures.values

    # ------------------------------------------------------------------------------------------------ main loop

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0..1."""
        if self.stopped_early:
            return 1.0
        if self.cfg.iterations is not None:
            return min(1.0, self.iteration / self.cfg.iterations)
        return min(1.0, self.elapsed_s / self.cfg.seconds)

    def run(self, on_progress: Callable[[float, str], None] | None = None) -> SplatModel:
        """Train until the budget is spent or held-out views stop gaining; saves checkpoints on the way and at the end.

        Args:
            on_progress: Called about once a second with the fraction done and a short status.
        """
        last = told = saved = time.monotonic()
        last_cpu = time.process_time()
        compiled = False
        while self.progress < 1.0:
            loss = self._step()
            if (
                not compiled
            ):  # a process's first step may compile the kernels: half a minute that is no training
                last, last_cpu, compiled = time.monotonic(), time.process_time(), True
            self.iteration += 1
            if self.iteration % self.cfg.densify_every == 0:
                self._densify()
            self._score_if_due()
            now, now_cpu = time.monotonic(), time.process_time()
            self.elapsed_s += now - last
            self.cpu_s += now_cpu - last_cpu
            last, last_cpu = now, now_cpu
            if self.iteration % 20 == 0:
                self.losses.append((self.iteration, loss))
            if on_progress is not None and now - told > 1.0:
                on_progress(self.progress, self._status(loss))
                told = now
            if self.checkpoint is not None and now - saved > self.cfg.checkpoint_seconds:
                self.save()
                saved = last = time.monotonic()
                last_cpu = time.process_time()
        if self.checkpoint is not None:
            self.save()
        return self.model

    def _status(self, loss: float) -> str:
        score = f", held out {self.scores_db[-1][1]:.2f} dB" if self.scores_db else ""
        return f"step {self.iteration}, {len(self.engine.pull)} splats, loss {loss:.4f}{score}"

    def _level(self) -> int:
        coarse = sum(self.progress >= f for f in self.cfg.level_until)
        return min(coarse, len(self.views.intrinsics) - 1)

    def _next_view(self) -> int:
        if not self._order:
            self._order = [int(i) for i in self.rng.permutation(self.views.train)]
        return self._order.pop()

    def _frame(self, index: int, level: int) -> Frame:
        view, camera = self.views.views[index], self.views.camera(index, level)
        depth = (
            self.surfaces.depth(index, camera)
            if self.cfg.depth_weight > 0 or self.cfg.normal_weight > 0
            else None
        )
        normals = None
        if depth is not None and self.cfg.normal_weight > 0:
            normals = self.surfaces.normals(index, camera, view.c2w)
        mask = None if view.masks is None else view.masks[level]
        worldview = self.poses.worldview(index)
        return Frame(
            worldview, camera, view.pyramid[level], self.exposures.affine(index), mask, depth, normals
        )

    def _step(self) -> float:
        rates = schedule(self.cfg, self.progress)
        index = self._next_view()
        result = self.engine.step(self._frame(index, self._level()), rates)
        self.exposures.step(index, result.v_affine, rates.exposure)
        if result.v_view is not None and rates.pose_px > 0:
            self.poses.step(index, result.v_view, rates.pose_px)
        if not self._order:
            if rates.exposure > 0:
                self.exposures.center()
            if rates.pose_px > 0:
                self.poses.hold_gauge()
        if self.cfg.growth == "mcmc" and self.progress < self.cfg.densify_until:
            self._shake(result.visible, rates.mean_px)
        return result.loss

    def _score_if_due(self) -> None:
        """Score the held-out views now and then once growing has ended, and stop when they have stopped gaining."""
        cfg = self.cfg
        if not self.views.held_out or cfg.score_every <= 0 or self.progress < self._next_score:
            return
        self._next_score = self.progress + cfg.score_every - 1e-9
        score = self.held_out_psnr_db()
        assert score is not None
        self.scores_db.append((self.iteration, score))
        best = 0
        for i, (_, value) in enumerate(self.scores_db):
            if value > self.scores_db[best][1] + RISE_DB:
                best = i
        if 0 < cfg.patience <= len(self.scores_db) - 1 - best:
            self.stopped_early = True

    # -------------------------------------------------------------------------------------------------- densification

    def _footprints(self, means: Floats) -> Floats:
        """Size of a pixel of the finest level at each splat, seen from the nearest training camera [m]."""
        from scipy.spatial import cKDTree

        centers = np.stack([self.views.views[i].c2w[:3, 3] for i in self.views.train])
        distance, nearest = cKDTree(centers).query(np.nan_to_num(means))
        return (np.maximum(distance, 0.2) / self._focal_px[nearest]).astype(np.float32)

    def _densify(self) -> None:
        cfg, engine = self.cfg, self.engine
        m = engine.store()
        score = engine.pull / np.maximum(engine.seen, 1)
        growing = self.progress < cfg.densify_until
        if cfg.growth == "mcmc" and growing:
            m = relocate(m, cfg, self.rng)
        else:
            keep = prune(m, engine.seen, cfg, self.progress)
            m, score = m.take(keep), score[keep]
            if growing and len(m):
                m = grow_by_pull(m, score, cfg, self.rng)
            elif not growing and len(m) > cfg.final_splats:
                m = m.take(np.sort(np.argsort(-self._contributions(m), kind="stable")[: cfg.final_splats]))
        m.footprint = self._footprints(m.means)
        engine.load(m)

    def _shake(self, visible: NDArray, step_px: float) -> None:
        engine = self.engine
        pull, seen = engine.pull, engine.seen
        m = engine.store()
        shake(m, visible, step_px, self.rng)
        engine.load(m)
        engine.pull, engine.seen = pull, seen

    def _contributions(self, m: SplatModel) -> Floats:
        """Blending weight of each splat, summed over the pixels of all training views at the second coarsest level."""
        level = min(1, len(self.views.intrinsics) - 1)
        parameters = (m.means, m.quats, np.exp(m.log_scales), sigmoid(m.logits), np.zeros_like(m.means))
        total = np.zeros(len(m), np.float32)
        for index in self.views.train:
            camera = self.views.camera(index, level)
            ones = np.ones((camera.height, camera.width, 3), np.float32)
            nothing = np.zeros((camera.height, camera.width), np.float32)
            rgb, depth, trans, state = raster_forward(
                *parameters, self.poses.worldview(index), camera.K, camera.width, camera.height
            )
            # The gradient of the sum of an image by a splat's colour is the splat's weight in that image.
            g = raster_backward(*parameters, state, rgb, depth, trans, ones, nothing, nothing)
            total += g.colors[:, 0]
        return total

    # ----------------------------------------------------------------------------------------------- scoring, saving

    def render(self, index: int) -> Floats:
        """The splats from view ``index`` at the finest level, without any exposure, clipped to 0..1."""
        camera = self.views.camera(index)
        return render_splats(self.model, self.poses.worldview(index), camera.K, camera.width, camera.height)[
            0
        ]

    def psnr_db(self, index: int) -> float:
        """PSNR of a view [dB], plain: no colour fit of any kind; over the pixels that its mask leaves."""
        view = self.views.views[index]
        image, truth = self.render(index), view.pyramid[-1] / 255.0
        if view.masks is not None and view.masks[-1].any():
            image, truth = image[view.masks[-1]], truth[view.masks[-1]]
        return psnr_db(image, truth)

    def held_out_psnr_db(self) -> float | None:
        """Mean PSNR over the held-out views [dB]; None without such views."""
        if not self.views.held_out:
            return None
        return float(np.mean([self.psnr_db(i) for i in self.views.held_out]))

    def save(self) -> None:
        """Write the checkpoint (to a temporary name first)."""
        if self.checkpoint is None:
            return
        arrays = {
            "pull": self.engine.pull, "seen": self.engine.seen, "order": np.array(self._order, np.int64),
            "exposures": self.exposures.values, "exposure_moments": self.exposures.moments,
            "c2w": self.poses.c2w, "c2w_start": self.poses.start, "pose_moments": self.poses.moments,
            "pose_counts": self.poses.counts, "pose_unit": self.poses.unit,
        }  # fmt: skip
        values = {
            "iteration": self.iteration, "elapsed_s": self.elapsed_s, "cpu_s": self.cpu_s, "losses": self.losses,
            "scores_db": self.scores_db, "stopped_early": self.stopped_early, "next_score": self._next_score,
            "rng": self.rng.bit_generator.state,
        }  # fmt: skip
        save_state(self.checkpoint, TrainingState(self.model, arrays, values))

    def _restore(self, path: Path) -> None:
        state = load_state(path)
        arrays, values = state.arrays, state.values
        found, expected = len(arrays["exposures"]), len(self.views.views)
        if found != expected:
            raise InputError(
                f"{path}: belongs to {found} photographs, found {expected}; delete it to train anew"
            )
        if not np.array_equal(arrays["c2w_start"], self.poses.start):
            raise InputError(f"{path}: belongs to other camera poses; delete it to train anew")
        self.engine.load(state.model)
        self.engine.pull, self.engine.seen = arrays["pull"], arrays["seen"]
        self._order = arrays["order"].tolist()
        self.exposures.values, self.exposures.moments = arrays["exposures"], arrays["exposure_moments"]
        self.poses.c2w, self.poses.moments = arrays["c2w"], arrays["pose_moments"]
        self.poses.counts, self.poses.unit = arrays["pose_counts"], arrays["pose_unit"]
        self._restore_values(values)

    def _restore_values(self, values: dict[str, Any]) -> None:
        self.iteration, self.elapsed_s = int(values["iteration"]), float(values["elapsed_s"])
        self.cpu_s = float(values.get("cpu_s", 0.0))  # checkpoints written before it was counted
        self.losses = [(int(i), float(x)) for i, x in values["losses"]]
        self.scores_db = [(int(i), float(x)) for i, x in values["scores_db"]]
        # A longer training than the one that was stopped may go on.
        self._next_score = float(values["next_score"])
        self.stopped_early = bool(values["stopped_early"])
        self.rng.bit_generator.state = values["rng"]

    def settings(self) -> dict[str, object]:
        """The configuration as plain values, for manifests."""
        return asdict(self.cfg)


def make_engine(cfg: TrainerCfg) -> Engine:
    """The engine that the settings name.

    Raises:
        InputError: It is unknown, or cannot run on this machine; never another one in its place.
    """
    if cfg.engine == "numba":
        return NumbaEngine(cfg)
    if cfg.engine == "gsplat":
        from gaussgym_recon.training.torch_engine import gsplat_engine

        return gsplat_engine(cfg)
    raise InputError(f"trainer engine {cfg.engine!r}: unknown, expected 'numba' or 'gsplat'")
