"""The demo: every stage from photos to a policy that was run against a second simulator, as a list one can read."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from gaussgym_scene.errors import InputError

from gaussgym import report, summary
from gaussgym.layout import Layout
from gaussgym.pipeline import Pipeline
from gaussgym.stages import STATE_FILE, RunState, Stage

VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm"}
SCENE_CODE = ("gaussgym_scene",)
RECON_CODE = ("gaussgym_recon",)
LEARN_CODE = ("gaussgym_learn",)
WALK_CODE = ("gaussgym_learn", "gaussgym.walking")
DEPLOY_CODE = ("gaussgym_learn", "gaussgym_deploy")
STAIRS_HEIGHT_M = 0.15
MINUTES = {
    "minutes_splats": (2.6, 6.0),
    "minutes_teacher_flat": (1.75, 2.5),
    "minutes_teacher": (1.0, 2.0),
    "minutes_pixels": (0.3, 1.0),
    "minutes_fine_tune": (0.8, 3.0),
}
"""Time for each training [min], in the embedded demo and with a capture of one's own, which is worth more of it."""


@dataclass
class Demo:
    """Run every stage from photos to policy; a second run rebuilds only what changed.

    Without a capture it photographs a procedural street, whose true shape is known.
    """

    capture: Path | None = None
    """Folder of photos, or a video, of a place that was walked through."""
    camera_height: float | None = None
    """How high the camera was held [m]; needed where the photos hold no GPS."""
    output: Path = Path("runs/demo")
    """Run folder; ends with report.html and summary.json."""
    minutes_splats: float | None = None
    """Time for training the splats [min]; default 2.6, with a capture of one's own 6."""
    minutes_teacher_flat: float | None = None
    """Time for the teacher to learn to walk on the flat [min]; default 1.75, with a capture of one's own 2.5."""
    minutes_teacher: float | None = None
    """Time for it to learn the place [min]; default 1, with a capture of one's own 2."""
    minutes_pixels: float | None = None
    """Time for PPO straight from pixels [min]; default 0.3, with a capture of one's own 1."""
    minutes_fine_tune: float | None = None
    """Time for fine-tuning the shipped student in the place [min]; default 0.8, with a capture of one's own 3."""
    episodes: int = 256
    """Episodes of each evaluation."""
    sim2sim_episodes: int = 64
    """Episodes of sim2sim, from the first of the same starts."""
    seed: int = 0
    """Seed of everything random."""
    cores: int | None = None
    """Cores to use; default: all."""
    ignore_code_changes: bool = False
    """Rebuild nothing because source code changed."""
    shipped: Path | None = None
    """Folder with `student` and `stairs_teacher`; default: those that come with gaussgym_learn."""

    def minutes(self, name: str) -> float:
        """Time for a training [min]: what was asked for, else its default for the kind of capture."""
        given = getattr(self, name)
        return given if given is not None else MINUTES[name][self.capture is not None]

    def run(self) -> Path:
        """Build what is missing and write summary and report.

        Returns:
            The path of `report.html`.
        """
        check_options(self)
        layout = Layout(self.output.absolute())
        stages = demo_stages(self, layout)
        pipeline = Pipeline(layout.root, stages, cores=self.cores, trust_code=self.ignore_code_changes)
        pipeline.run()
        return finish(layout, pipeline.state)


def finish(layout: Layout, state: RunState) -> Path:
    """Write summary and report of a run folder that is up to date.

    Returns:
        The path of `report.html`.
    """
    numbers = summary.collect(layout, state)
    summary.write(layout, numbers)
    return report.write_report(layout, numbers, state)


def rewrite_report(run_dir: Path) -> Path:
    """Write summary and report of a finished run folder again.

    Raises:
        InputError: If it is no run folder, or its demo did not finish.
    """
    if not (run_dir / STATE_FILE).exists():
        raise InputError(f"{run_dir}: holds no {STATE_FILE}, expected the run folder of a demo")
    return finish(Layout(run_dir), RunState.load(run_dir))


def check_options(options: Demo) -> None:
    """Refuse what cannot work before anything starts.

    Raises:
        InputError: With what was found and what to do.
    """
    if options.capture is not None and not options.capture.exists():
        raise InputError(f"{options.capture}: not found; give a folder of photos or a video")
    for name in MINUTES:
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise InputError(f"--{name.replace('_', '-')} is {value:g}, expected more than 0 min")
    for name in ("episodes", "sim2sim_episodes"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(options, name)}, expected at least 1")
    if options.sim2sim_episodes > options.episodes:
        raise InputError(
            f"--sim2sim-episodes is {options.sim2sim_episodes}, expected at most the {options.episodes} evaluated ones"
        )
    if options.camera_height is not None and not 0.05 <= options.camera_height <= 20:
        raise InputError(f"--camera-height is {options.camera_height:g} m, expected 0.05 to 20 m")
    if options.output.exists() and not options.output.is_dir():
        raise InputError(f"{options.output}: is a file, expected a folder for the run; give another --output")


def shipped_policies(folder: Path | None = None) -> Path:
    """Folder of the policies that come with the project.

    Raises:
        InputError: If a policy is not there.
    """
    if folder is None:
        spec = importlib.util.find_spec("gaussgym_learn")
        if spec is None or not spec.submodule_search_locations:
            raise InputError("gaussgym_learn is not installed; run make setup")
        folder = Path(next(iter(spec.submodule_search_locations))) / "policies"
    for name in ("student", "stairs_teacher"):
        if not (folder / name / "checkpoint.json").exists():
            raise InputError(
                f"{folder / name}: no checkpoint.json, expected the shipped {name}; get the whole repository"
            )
    return folder


def demo_stages(options: Demo, layout: Layout) -> list[Stage]:
    """List the stages of a demo.

    Args:
        options: What was asked for.
        layout: Where everything goes.
    """
    policies = shipped_policies(options.shipped)
    own = options.capture is not None
    before = own_capture_stages(options, layout) if own else synthetic_capture_stages(options, layout)
    return [
        *before,
        *scene_stages(options, layout),
        *teacher_stages(options, layout),
        *student_stages(options, layout, policies),
        *bundle_stages(options, layout),
        *report_stages(options, layout),
    ]


def synthetic_capture_stages(options: Demo, layout: Layout) -> list[Stage]:
    """A procedural street, photographed: its truth is known, and only `truth` reads it."""
    return [
        Stage(
            name="street",
            title="make a procedural street",
            command=("gaussgym_scene", "synth", "street", "--output", str(layout.truth_scene)),
            outputs=(layout.truth_scene,),
            estimate_s=15,
            code=SCENE_CODE,
            cores=1,
            disk_mb=100,
        ),
        Stage(
            name="photos",
            title="photograph it by ray-casting its mesh",
            command=(
                "gaussgym_recon", "synth", str(layout.truth_scene), "--output", str(layout.capture),
                "--seed", str(options.seed),
            ),
            inputs=(layout.truth_scene,),
            outputs=(layout.capture, layout.truth_poses),
            estimate_s=45,
            code=RECON_CODE,
            cores=1,
            disk_mb=60,
        ),
        Stage(
            name="truth",
            title="compare the built scene with the truth",
            command=(
                "gaussgym", "compare", str(layout.scene), "--capture", str(layout.capture),
                "--truth", str(layout.truth_scene), "--json", str(layout.result("truth")),
            ),
            inputs=(layout.scene, layout.capture, layout.truth_poses, layout.truth_scene),
            outputs=(layout.result("truth"),),
            estimate_s=8,
            code=RECON_CODE,
            cores=1,
        ),
    ]  # fmt: skip


def own_capture_stages(options: Demo, layout: Layout) -> list[Stage]:
    """Import of the user's photos or video."""
    assert options.capture is not None
    source = "video" if options.capture.suffix.lower() in VIDEO_SUFFIXES else "images"
    capture = options.capture.absolute()
    return [
        Stage(
            name="photos",
            title=f"import {options.capture.name}",
            command=("gaussgym_recon", "import", source, str(capture), "--output", str(layout.capture)),
            inputs=(capture,),
            outputs=(layout.capture,),
            estimate_s=20,
            code=RECON_CODE,
            cores=0,  # first of all, with the build behind it: photos are what may turn out to be of no use
            disk_mb=600,
        )
    ]


def scene_stages(options: Demo, layout: Layout) -> list[Stage]:
    """From photos to a scene, and the two procedural scenes that every demo uses."""
    minutes = options.minutes("minutes_splats")
    height = () if options.camera_height is None else ("--camera-height", f"{options.camera_height:g}")
    return [
        Stage(
            name="build",
            title="photos → splats → terrain",
            command=(
                "gaussgym_recon", "build", str(layout.capture), "--output", str(layout.scene),
                # Fewer splats than the default: pictures for training from pixels are drawn from them many times over.
                "--minutes", f"{minutes:g}", "--seed", str(options.seed), "--max-splats", "80000", *height, "--require-path",
            ),
            inputs=(layout.capture,),
            outputs=(layout.scene,),
            estimate_s=60 * minutes + (90 if options.capture is None else 240),
            code=RECON_CODE,
            cores=0,
            memory_mb=3000,
            disk_mb=400,
        ),
        Stage(
            name="flat",
            title="make a plane",
            command=("gaussgym_scene", "synth", "flat", "--output", str(layout.flat_scene)),
            outputs=(layout.flat_scene,),
            estimate_s=6,
            code=SCENE_CODE,
            cores=1,
            disk_mb=50,
        ),
        Stage(
            name="stairs",
            title="make 15 cm stairs",
            command=(
                "gaussgym_scene", "synth", "stairs", "--step-height-m", f"{STAIRS_HEIGHT_M:g}",
                "--output", str(layout.stairs_scene),
            ),
            outputs=(layout.stairs_scene,),
            estimate_s=8,
            code=SCENE_CODE,
            cores=1,
            disk_mb=50,
        ),
    ]  # fmt: skip


def teacher_stages(options: Demo, layout: Layout) -> list[Stage]:
    """A teacher that knows the ground learns to walk from nothing, then learns the place."""
    return [
        Stage(
            name="teacher-flat",
            title="teacher: learn to walk from nothing",
            command=(
                "gaussgym", "teach", "teacher_flat", "--output", str(layout.teacher_flat),
                "--snapshots", str(layout.snapshots), "--minutes", f"{options.minutes('minutes_teacher_flat'):g}",
                "--seed", str(options.seed),
            ),
            outputs=(layout.teacher_flat, layout.snapshots),
            estimate_s=60 * options.minutes("minutes_teacher_flat") + 8,
            code=WALK_CODE,
            memory_mb=1500,
            stop_grace_s=20,
        ),
        Stage(
            name="walk",
            title="teacher: since when does it walk?",
            command=("gaussgym", "walk", str(layout.snapshots), "--json", str(layout.result("walk"))),
            inputs=(layout.snapshots,),
            outputs=(layout.result("walk"),),
            estimate_s=50,
            code=WALK_CODE,
            cores=1,
            memory_mb=1500,
        ),
        Stage(
            name="teacher",
            title="teacher: learn this place",
            command=(
                "gaussgym_learn", "train", "teacher_rough", "--scenes", str(layout.scene),
                "--init-from", str(layout.teacher_flat), "--output", str(layout.teacher),
                "--minutes", f"{options.minutes('minutes_teacher'):g}", "--seed", str(options.seed),
            ),
            inputs=(layout.teacher_flat, layout.scene),
            outputs=(layout.teacher,),
            estimate_s=60 * options.minutes("minutes_teacher") + 8,
            code=LEARN_CODE,
            memory_mb=1500,
            resume=("--resume",),
            stop_grace_s=20,
        ),
        evaluation(options, layout, "teacher_flat", layout.teacher_flat, layout.flat_scene, "teacher on the flat", seconds=35),
        evaluation(options, layout, "teacher", layout.teacher, layout.scene, "teacher in this place", seconds=35),
    ]  # fmt: skip


def student_stages(options: Demo, layout: Layout, policies: Path) -> list[Stage]:
    """PPO from pixels, and the shipped student, tuned to the place."""
    shipped, shipped_teacher = policies / "student", policies / "stairs_teacher"
    return [
        Stage(
            name="pixels",
            title="PPO straight from pixels",
            command=(
                "gaussgym_learn", "train", "pixels", "--scenes", str(layout.scene), "--output", str(layout.pixels),
                "--minutes", f"{options.minutes('minutes_pixels'):g}", "--seed", str(options.seed),
            ),
            inputs=(layout.scene,),
            outputs=(layout.pixels,),
            estimate_s=60 * options.minutes("minutes_pixels") + 12,
            code=LEARN_CODE,
            memory_mb=2500,
            resume=("--resume",),
            stop_grace_s=20,
        ),
        evaluation(
            options, layout, "pixels", layout.pixels, layout.scene, "PPO from pixels", seconds=300,
            episodes=min(16, options.episodes),
        ),
        evaluation(options, layout, "student_before", shipped, layout.scene, "shipped student in this place", seconds=90),
        Stage(
            name="fine-tune",
            title="student: tune it to this place",
            command=(
                "gaussgym_learn", "distill", str(shipped_teacher), "--init-from", str(shipped),
                "--scenes", str(layout.scene), str(layout.stairs_scene), "--output", str(layout.tuned),
                "--minutes", f"{options.minutes('minutes_fine_tune'):g}", "--seed", str(options.seed),
            ),
            inputs=(shipped, shipped_teacher, layout.scene, layout.stairs_scene),
            outputs=(layout.tuned,),
            estimate_s=60 * options.minutes("minutes_fine_tune") + 12,
            code=LEARN_CODE,
            memory_mb=3000,
            resume=("--resume",),
            stop_grace_s=20,
        ),
        evaluation(options, layout, "student_tuned", layout.tuned, layout.scene, "tuned student in this place", seconds=90),
        Stage(
            name="choose",
            title="student: deliver the better of the two",
            command=(
                "gaussgym", "choose", str(shipped), str(layout.tuned), "--before-result", str(layout.result("student_before")),
                "--tuned-result", str(layout.result("student_tuned")), "--output", str(layout.student),
                "--result", str(layout.result("student")),
            ),
            inputs=(shipped, layout.tuned, layout.result("student_before"), layout.result("student_tuned")),
            outputs=(layout.student, layout.result("student")),
            estimate_s=2,
            code=("gaussgym.choice",),
            cores=1,
        ),
        evaluation(options, layout, "student_stairs", layout.student, layout.stairs_scene, "student on 15 cm stairs", seconds=90),
        evaluation(
            options, layout, "student_stairs_blank", layout.student, layout.stairs_scene,
            "student on 15 cm stairs, images blanked", seconds=70, ablate="blank",
        ),
    ]  # fmt: skip


def bundle_stages(options: Demo, layout: Layout) -> list[Stage]:
    """Export, check, and the robot's runtime against plain MuJoCo."""
    return [
        Stage(
            name="export",
            title="export the policy bundle",
            command=(
                "gaussgym_learn", "export", str(layout.student), "--scenes", str(layout.scene),
                "--output", str(layout.bundle),
            ),
            inputs=(layout.student, layout.scene),
            outputs=(layout.bundle,),
            estimate_s=12,
            code=DEPLOY_CODE,
            cores=1,
        ),
        Stage(
            name="check",
            title="check the bundle against its golden trace",
            command=("gaussgym_deploy", "check", str(layout.bundle), "--json", str(layout.result("check"))),
            inputs=(layout.bundle,),
            outputs=(layout.result("check"),),
            estimate_s=4,
            code=("gaussgym_deploy",),
            cores=1,
        ),
        Stage(
            name="sim2sim",
            title="sim2sim: the robot's runtime against plain MuJoCo",
            command=(
                "gaussgym_deploy", "sim2sim", str(layout.bundle), "--scene", str(layout.scene),
                "--episodes", str(options.sim2sim_episodes), "--json", str(layout.result("sim2sim")),
            ),
            inputs=(layout.bundle, layout.scene),
            outputs=(layout.result("sim2sim"),),
            estimate_s=110,
            code=DEPLOY_CODE,
            cores=1,
            memory_mb=1500,
        ),
    ]  # fmt: skip


def report_stages(options: Demo, layout: Layout) -> list[Stage]:
    """Films and drawings; the page itself is written at the very end."""
    place = "street" if options.capture is None else options.capture.resolve().stem
    return [
        film_stage(options, layout, "place", layout.scene, "this place"),
        film_stage(options, layout, "stairs", layout.stairs_scene, "15 cm stairs"),
        Stage(
            name="figures",
            title="draw terrain, curves and pairs of pictures",
            command=("gaussgym", "illustrate", str(layout.root), "--place", place),
            inputs=(
                layout.scene, layout.result("walk"), layout.teacher_flat, layout.teacher, layout.pixels, layout.tuned,
                layout.films / "place",
            ),
            outputs=(layout.figures,),
            estimate_s=8,
            code=("gaussgym.illustrate", "gaussgym.figures"),
            cores=1,
        ),
    ]  # fmt: skip


def film_stage(options: Demo, layout: Layout, name: str, scene: Path, where: str) -> Stage:
    """Film the delivered policy in a scene."""
    output = layout.films / name
    return Stage(
        name=f"film-{name}",
        title=f"film the student: {where}",
        command=("gaussgym", "film", str(layout.student), "--scene", str(scene), "--output", str(output)),
        inputs=(layout.student, scene),
        outputs=(output,),
        estimate_s=30,
        code=(*LEARN_CODE, "gaussgym.video"),
        cores=1,
        memory_mb=1500,
        disk_mb=20,
    )


def evaluation(
    options: Demo,
    layout: Layout,
    name: str,
    policy: Path,
    scene: Path,
    title: str,
    *,
    seconds: float,
    ablate: str = "none",
    episodes: int | None = None,
) -> Stage:
    """Evaluate a policy from fixed starts, the same ones for every policy in a scene."""
    result = layout.result(name)
    words = ["gaussgym_learn", "evaluate", str(policy), "--scenes", str(scene)]
    words += ["--episodes", str(episodes or options.episodes), "--ablate", ablate, "--json", str(result)]
    return Stage(
        name=f"evaluate-{name.replace('_', '-')}",
        title=f"evaluate: {title}",
        command=tuple(words),
        inputs=(policy, scene),
        outputs=(result,),
        estimate_s=seconds * (episodes or options.episodes) / 256,
        code=LEARN_CODE,
        cores=1,
        memory_mb=2000,
    )
