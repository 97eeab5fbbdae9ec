"""The evaluation protocol, on real physics: same starts for all, resumable, one folder; wrong inputs."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gaussgym_learn import __main__ as program
from gaussgym_learn.courses import stairs_course
from gaussgym_learn.evaluate import EPISODE_S
from gaussgym_learn.evaluation import protocol as protocol_module
from gaussgym_learn.evaluation.artifact import FORMAT, MANIFEST, evaluate_policies
from gaussgym_learn.evaluation.cells import load_cell, save_cell
from gaussgym_learn.evaluation.gallery import GalleryCfg
from gaussgym_learn.evaluation.protocol import Protocol, ProtocolCfg, scene_batches
from gaussgym_learn.evaluation.report import results_of
from gaussgym_learn.evaluation.subjects import settings_for, subject
from gaussgym_learn.film.chase import ChaseCfg
from gaussgym_scene.artifact import read_artifact
from gaussgym_scene.errors import InputError
from gaussgym_scene.splats import Splats
from gaussgym_sim.env import EnvCfg

JOINTS = 12


class Act:
    """Kicks with all legs, as hard as it is told, and harder where its images are bright; a mean of 0 makes it stand."""

    def __init__(self, name, strength, *, sees=False):
        self.name, self.strength, self.sees = name, strength, sees

    def check(self, env):
        self.checked = env.num_envs

    def act(self, obs):
        phase = 40.0 * obs["proprio"][:, 6:7] + 7.0 * obs["proprio"][:, 9:21].sum(dim=1, keepdim=True)
        bright = obs["rgb"].float().mean(dim=(1, 2, 3))[:, None] / 255 if self.sees else 1.0
        return self.strength * bright * torch.sin(phase + torch.arange(JOINTS))

    def reset(self, dones=None):
        pass


def subjects(**strengths):
    return [
        subject(name, [Act(name, abs(s), sees=s < 0)], [f"print of {name}"]) for name, s in strengths.items()
    ]


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch):
    monkeypatch.setitem(EPISODE_S, "goal", 1.2)


def course(seed=0):
    scene = stairs_course((0.0, 0.1), lanes=1, rubble=False, length_m=14.0, seed=seed)
    rng = np.random.default_rng(seed)
    n = 200
    quats = rng.normal(size=(n, 4))
    scene.__dict__["splats"] = Splats(
        means=np.concatenate(
            [rng.uniform(0, 14, (n, 1)), rng.uniform(0, 6, (n, 1)), rng.uniform(0, 1, (n, 1))], 1
        ),
        quats_wxyz=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        scales=rng.uniform(0.05, 0.4, (n, 3)),
        opacities=rng.uniform(0.3, 1, n),
        sh=rng.normal(size=(n, 1, 3)),
    )
    return scene


@pytest.fixture(scope="module")
def scenes():
    return [course(0), course(1)]


CFG = ProtocolCfg(episodes=6, seeds=(1, 2), ablations=("blank",), scenes_at_once=1)


def test_an_interrupted_run_goes_on_and_comes_to_the_same(scenes, tmp_path, monkeypatch):
    """Two policies, two seeds, two batches of scenes, blank images for the one that sees: 12 cells; killed in the sixth."""
    ran = []
    real = protocol_module.run_cell

    def run_cell(cell, *args, **options):
        if len(ran) == 5 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise KeyboardInterrupt
        ran.append(cell.key)
        return real(cell, *args, **options)

    monkeypatch.setattr(protocol_module, "run_cell", run_cell)
    who = subjects(kick=9.0, look=-9.0)
    with pytest.raises(KeyboardInterrupt):
        Protocol(who, scenes, CFG, tmp_path / "a").run()
    assert len(ran) == 5
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").iterdir()}
    resumed = Protocol(who, scenes, CFG, tmp_path / "a").run()
    assert resumed.ran == 7
    assert len(set(ran)) == len(ran) == 12
    assert all((tmp_path / "a" / name).stat().st_mtime_ns == time for name, time in finished.items())
    whole = Protocol(who, scenes, CFG, tmp_path / "b").run()
    assert whole.ran == 12
    for place, result in whole.results.items():
        other = resumed.results[place]
        assert {n: v.tolist() for n, v in result.labels.items()} == {
            n: v.tolist() for n, v in other.labels.items()
        }
        for name, values in result.table.items():
            np.testing.assert_array_equal(values, other.table[name])
    assert json.dumps(results_of(whole)) == json.dumps(results_of(resumed))
    again = Protocol(who, scenes, CFG, tmp_path / "a")
    damaged = tmp_path / "a" / f"{again.cells[3].key}.npz"
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert again.run().ran == 1
    # Other seeds, episodes or policies are other cells; more conditions are more of them.
    more = Protocol(who, scenes, ProtocolCfg(**{**vars(CFG), "sweeps": ("friction",)}), tmp_path / "a")
    assert {c.key for c in again.cells} < {c.key for c in more.cells}
    for change in ({"seeds": (1, 5)}, {"episodes": 8}):
        other = Protocol(who, scenes, ProtocolCfg(**{**vars(CFG), **change}), tmp_path / "a")
        assert {c.key for c in again.cells} != {c.key for c in other.cells}


def test_everybody_runs_the_same_starts(scenes, tmp_path):
    who = subjects(kick=9.0, look=-9.0)
    out = Protocol(who, scenes, CFG, tmp_path).run()
    a, b, blank = (out.of(*place).table for place in (("kick",), ("look",), ("look", "blank")))
    assert out.of("kick", "blank") is None
    for name in ("replicate", "start", "scene", "shortest_m"):
        np.testing.assert_array_equal(a[name], b[name])
        np.testing.assert_array_equal(a[name], blank[name])
    assert a["start"].tolist() == list(range(6)) * 2
    assert a["scene"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert a["replicate"].tolist() == [0] * 6 + [1] * 6
    results = results_of(out)
    assert results["policies"]["kick"]["senses"] == "blind"
    assert results["policies"]["look"]["senses"] == "RGB"
    assert set(results["policies"]["look"]["changes"]) == {"blank"}
    assert "look: " in results["policies"]["look"]["eyes"]["line"]
    assert "eyes" not in results["policies"]["kick"]
    change = results["differences"][0]["a_minus_b"]["velocity_error_m_s"]
    assert change["value"] == pytest.approx(
        (a["velocity_error_m_s"] - b["velocity_error_m_s"]).mean(), abs=1e-5
    )


def test_runs_of_several_training_seeds_take_turns(scenes, tmp_path):
    """Replicate k of a policy that comes as two runs is run k; it differs from one that comes as one."""
    soft, hard = Act("soft", 0.0), Act("hard", 9.0)
    who = [subject("two", [soft, hard], ["a", "b"]), subject("one", [soft], ["a"])]
    cfg = ProtocolCfg(episodes=2, seeds=(1, 2), scenes_at_once=2)
    out = Protocol(who, scenes, cfg, tmp_path).run()
    two, one = out.of("two").table["path_m"], out.of("one").table["path_m"]
    np.testing.assert_array_equal(two[:2], one[:2])
    assert not np.array_equal(two[2:], one[2:])
    with pytest.raises(InputError, match="2 runs for 1 seeds; expected a seed for each run"):
        Protocol(who, scenes, ProtocolCfg(episodes=2, seeds=(1,)), tmp_path)


def test_a_cell_comes_back_as_it_was(scenes, tmp_path):
    protocol = Protocol(
        subjects(look=-9.0), scenes[:1], ProtocolCfg(episodes=4, seeds=(1,), ablations=()), tmp_path
    )
    result = protocol.run().of("look")
    save_cell(tmp_path / "again.npz", result)
    back = load_cell(tmp_path / "again.npz")
    assert back is not None
    assert len(back.failures) == len(result.failures) == 4
    for mine, theirs in zip(result.failures, back.failures, strict=True):
        assert (mine.start, mine.kind, mine.scene, mine.period_s) == (
            theirs.start,
            theirs.kind,
            theirs.scene,
            theirs.period_s,
        )
        np.testing.assert_allclose(mine.quantities, theirs.quantities, rtol=2e-3, atol=1e-3)  # half precision
        assert (mine.motion is None) == (theirs.motion is None)
        if mine.motion is not None:
            np.testing.assert_array_equal(mine.motion, theirs.motion)
            np.testing.assert_array_equal(mine.frames, theirs.frames)
            assert theirs.frame.max() == len(theirs.frames) - 1
    assert load_cell(tmp_path / "missing.npz") is None


def test_sweeps_and_a_second_engine_change_the_episodes(scenes, tmp_path):
    cfg = ProtocolCfg(
        episodes=3, seeds=(1,), ablations=(), sweeps=("mass", "light"), second_engine="bridge:mujoco"
    )
    out = Protocol(subjects(kick=9.0), scenes[:1], cfg, tmp_path).run()
    base, heavy = out.of("kick").table["path_m"], out.of("kick", "mass=2").table["path_m"]
    assert not np.array_equal(base, heavy)
    np.testing.assert_array_equal(
        base, out.of("kick", "engine=bridge:mujoco").table["path_m"]
    )  # the same engine elsewhere
    results = results_of(out)
    curve = results["sweeps"]["mass"]["policies"]["kick"]
    assert [point["level"] for point in curve] == [0.7, 1.0, 1.3, 1.6, 2.0]
    assert results["sweeps"]["light"]["policies"] == {}  # a blind policy cannot notice


def test_the_folder_of_an_evaluation(scenes, tmp_path):
    output = tmp_path / "evaluation"
    tiny = GalleryCfg(chase=ChaseCfg(width=64, height=36))
    cfg = ProtocolCfg(episodes=4, seeds=(1, 2), ablations=("blank",))
    manifest, results = evaluate_policies(
        subjects(stand=0.0, look=-9.0),
        scenes[:1],
        output,
        cfg,
        videos=shutil.which("ffmpeg") is not None,
        gallery=tiny,
    )
    fields = read_artifact(output, manifest=MANIFEST, format=FORMAT)
    assert manifest == output / MANIFEST
    assert fields["policies"] == ["stand", "look"]
    names = set(fields["files"])
    assert {"results.json", "table.md", "index.html", "plots/policies.png", "plots/conditions.png"} <= names
    assert json.loads((output / "results.json").read_text())["protocol"]["seeds"] == [1, 2]
    gallery = json.loads((output / "gallery" / "gallery.json").read_text())
    assert {row["policy"] for row in gallery} == {"stand", "look"}
    assert all(f"gallery/{row['strip']}" in names for row in gallery)
    page = (output / "index.html").read_text()
    assert all(row["strip"] in page for row in gallery)
    if shutil.which("ffmpeg") is not None:
        assert {"videos/stand.mp4", "videos/look.mp4"} <= names
        assert all(f"gallery/{row['film']}" in names for row in gallery)
    assert not (tmp_path / "evaluation.cells").exists()
    # Once more, with another policy: what is there is not run again.
    more = Protocol(subjects(stand=0.0, look=-9.0, kick=9.0), scenes[:1], cfg, tmp_path / "work")
    assert more.run(found=output / "cells").ran == 2
    assert results["policies"]["stand"]["failures"]["kinds"].keys() <= {"stuck on flat", "stuck on stairs"}


def test_scenes_in_batches_by_hand():
    batches = scene_batches([SimpleNamespace(n=i) for i in range(5)], 12, 2)
    assert [(len(b.scenes), b.first_scene, b.first_start, b.episodes) for b in batches] == [
        (2, 0, 0, 4), (2, 2, 4, 5), (1, 4, 9, 3),
    ]  # fmt: skip
    with pytest.raises(InputError, match="3 episodes for 5 scenes"):
        scene_batches([SimpleNamespace(n=i) for i in range(5)], 3, 2)


def test_a_policy_keeps_its_camera_and_its_scales():
    env = {
        "camera": {"width": 84, "height": 40, "rate_hz": 5.0, "gone": 1},
        "observations": {"scan_x_m": [-1.0, 1.0, 5]},
    }
    policy = SimpleNamespace(
        checkpoint=SimpleNamespace(fields={"recipe": {"env": env}}),
        network=SimpleNamespace(actor_groups=("proprio", "depth")),
        sees=True,
    )
    cfg = settings_for(policy, EnvCfg())
    assert (cfg.camera.width, cfg.camera.height, cfg.camera.rate_hz, cfg.camera.images) == (
        84,
        40,
        5.0,
        ("depth",),
    )
    assert cfg.observations.scan_x_m == (-1.0, 1.0, 5)
    assert cfg.commands == EnvCfg().commands


def _exits(monkeypatch, capsys, *words):
    """Standard error of a command that ends with status 2; it must be one line."""
    monkeypatch.setattr(sys, "argv", ["gaussgym-learn", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x", "--no-videos"], "no scene given; add --scenes DIR"),
        (["--scenes", "x", "--no-videos"], "no policy given; expected run folders or policy bundles"),
        (["nowhere", "--scenes", "x", "--no-videos"], "neither checkpoint.json nor policy.json"),
        (
            ["a=SHIPPED/student", "a=SHIPPED/student", "--scenes", "x", "--no-videos"],
            "two policies are called 'a'",
        ),
        (["=x", "--scenes", "x", "--no-videos"], "policy '=x': expected DIR, NAME=DIR or NAME=DIR,DIR"),
        (["a=SHIPPED/student,SHIPPED/stairs_teacher", "--scenes", "x"], "its runs read different things"),
        (
            ["SHIPPED/student", "--scenes", "x", "--sweeps", "fog"],
            "unknown sweep 'fog'; choose from: all, light",
        ),
        (
            ["SHIPPED/student", "--scenes", "x", "--seeds", "1", "1"],
            "seeds [1, 1]; expected at least one, and each once",
        ),
        (["SHIPPED/student", "--scenes", "x", "--episodes", "0"], "found 0 episodes"),
        (["SHIPPED/student", "--scenes", "x", "--second-engine", "physx"], "unknown physics backend 'physx'"),
        (
            ["SHIPPED/student", "--scenes", "x", "--second-engine", "mujoco"],
            "second engine 'mujoco' is the first",
        ),
        (["SHIPPED/student", "--scenes", "x", "--delay-s", "0"], "delay of 0.0 s; expected a positive time"),
        (["SHIPPED/student", "--scenes", "x", "--no-videos"], "x/scene.json: not found"),
        (["SHIPPED/student", "--scenes", "x", "--show-others", "2"], "are for one policy evaluated once"),
        (
            ["SHIPPED/student", "SHIPPED/student", "--scenes", "x", "--json", "f"],
            "found 2 policies with --json",
        ),
    ],
)
def test_wrong_inputs(words, message, monkeypatch, capsys, tmp_path):
    from gaussgym_learn.commanding import SHIPPED

    monkeypatch.chdir(tmp_path)
    assert message in _exits(monkeypatch, capsys, *(word.replace("SHIPPED", str(SHIPPED)) for word in words))


def test_a_folder_that_is_no_evaluation_is_not_replaced(scenes, tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "thesis.txt").touch()
    with pytest.raises(InputError, match="exists and is not an evaluation; give another --output"):
        evaluate_policies(subjects(stand=0.0), scenes[:1], tmp_path / "evaluation", CFG, videos=False)
    assert (tmp_path / "evaluation" / "thesis.txt").exists()


def test_without_ffmpeg_nothing_is_run(monkeypatch, capsys, tmp_path):
    from gaussgym_learn.commanding import SHIPPED

    monkeypatch.setenv("PATH", str(tmp_path))
    line = _exits(monkeypatch, capsys, SHIPPED / "student", "--scenes", "x")
    assert "ffmpeg was not found" in line
    assert "--no-videos" in line
