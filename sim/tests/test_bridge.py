"""The bridge: nothing changes through it, and whatever ends one side leaves neither process nor memory behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gaussgym_scene.errors import InputError
from gaussgym_sim.engines import bridge_wire as wire
from gaussgym_sim.engines.bridge import BridgeCfg, BridgedSim, BridgeError
from gaussgym_sim.engines.bridge_bench import bench_bridge
from gaussgym_sim.env import Env
from gaussgym_sim.env_cfg import EnvCfg
from gaussgym_sim.grounds import flat_scene, place, stand, wavy_scene
from gaussgym_sim.presets import randomize_preset
from gaussgym_sim.robot import get_robot
from gaussgym_sim.testing import CONFORMANCE, missing
from gaussgym_sim.vecsim import VecSim, make_sim

TOY = Path(__file__).with_name("bridge_toy.py")


def toy(mode="works", *, num_envs=3, timeout_s=10.0, start_timeout_s=20.0):
    return BridgedSim(
        "toy", get_robot("go1"), [flat_scene()], num_envs, device=torch.device("cpu"),
        cfg=BridgeCfg(timeout_s=timeout_s, start_timeout_s=start_timeout_s), command=(sys.executable, str(TOY), mode),
    )  # fmt: skip


def is_running(pid):
    """Whether a process is there and no zombie that only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, timeout_s=10.0):
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(autouse=True)
def nothing_left():
    """No worker and no named shared memory outlives a test."""
    shm = Path("/dev/shm")
    before = set(shm.iterdir()) if shm.is_dir() else set()
    workers = []
    start = subprocess.Popen.__init__

    def note(self, *args, **options):
        start(self, *args, **options)
        workers.append(self.pid)

    subprocess.Popen.__init__ = note
    yield
    subprocess.Popen.__init__ = start
    assert wait_until(lambda: not any(is_running(pid) for pid in workers)), "a worker is left"
    if shm.is_dir():
        assert not {p for p in set(shm.iterdir()) - before if "bridge" in p.name}


# ---------------------------------------------------------------------- nothing changes


def assert_same(near, far):
    for name, value in vars(near.state).items():
        assert torch.equal(value, getattr(far.state, name)), name
    for name, value in near.params.items():
        assert torch.equal(value, far.params[name]), name
    assert torch.equal(near.scene_of_env, far.scene_of_env)
    assert near.invalid_count == far.invalid_count


@pytest.mark.parametrize("copies", [False, True], ids=["views of the block", "copies, as on another device"])
def test_every_call_gives_the_bits_of_the_backend_in_this_process(monkeypatch, copies):
    if copies:
        monkeypatch.setattr("gaussgym_sim.engines.bridge.sees_block", lambda device: False)
    scenes, upper = [flat_scene(), wavy_scene()], flat_scene(z_m=2.0)
    near, far = (make_sim(name, "go1", scenes, 6, num_threads=2) for name in ("mujoco", "bridge:mujoco"))
    assert isinstance(far, VecSim)
    for name in ("link_names", "total_mass_kg", "capabilities", "substep_s", "num_envs"):
        assert getattr(near, name) == getattr(far, name)
    assert_same(near, far)
    generator = torch.Generator().manual_seed(0)
    noise = 0.3 * torch.randn(60, 6, 12, generator=generator)
    joints = torch.tensor(near.robot.default_joint_pos)
    ids, some = torch.arange(6), torch.tensor([1, 4])
    saved = []
    for sim in (near, far):
        stand(sim, control_steps=5)
        sim.set_params(ids, friction=torch.linspace(0.3, 1.2, 6), delay_s=torch.linspace(0, 0.05, 6))
        sim.set_params(some, trunk_com_b=torch.tensor([[0.01, 0.0, 0.0], [0.0, 0.02, 0.0]]))
        for k in range(10):
            sim.step(joints + noise[k])
        sim.push(some, torch.tensor([[10.0, 0, 0], [0, 20.0, 0]]), torch.tensor([[0, 0, 1.0], [0, 0, 0]]))
        sim.kick(torch.tensor([0]), torch.tensor([[0.5, 0.0, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
    assert_same(near, far)
    for sim in (near, far):
        for k in range(10, 20):
            sim.step(joints + noise[k], substeps=3)
        saved.append(sim.state_dict())
        place(sim, pos_w=torch.tensor([[float("nan"), 0.0, 1.0]]), env_ids=torch.tensor([5]))
        sim.step(joints + noise[20])
    assert near.invalid_count == 1
    assert_same(near, far)
    for sim in (near, far):
        sim.set_scene(torch.tensor([0, 1, 2]), upper)
        place(sim, pos_w=torch.tensor([[0.0, 0.0, 2.4]]).repeat(3, 1), env_ids=torch.tensor([0, 1, 2]))
        sim.set_scene(torch.tensor([3]), upper)
        place(sim, pos_w=torch.tensor([[0.0, 0.0, 2.4]]), env_ids=torch.tensor([3]))
        sim.park(torch.tensor([2]))
        for k in range(30, 40):
            sim.step(joints + noise[k])
    assert_same(near, far)
    assert far.scenes[0] is upper
    xy = torch.tensor([[[0.5, 0.5]]]).repeat(6, 1, 1)
    assert torch.equal(near.terrain.sample(xy, near.scene_of_env), far.terrain.sample(xy, far.scene_of_env))
    origin, down = torch.full((6, 1, 3), 3.0), torch.tensor([0.0, 0.0, -1.0]).repeat(6, 1, 1)
    assert torch.equal(near.raycast(origin, down), far.raycast(origin, down))
    assert torch.equal(saved[0]["state"]["root_pos_w"], saved[1]["state"]["root_pos_w"])


def test_a_state_crosses_from_one_side_to_the_other():
    near, far = (make_sim(name, "go1", [wavy_scene()], 3) for name in ("mujoco", "bridge:mujoco"))
    stand(near, control_steps=8)
    far.load_state_dict(near.state_dict())
    joints = torch.tensor(near.robot.default_joint_pos).repeat(3, 1)
    for sim in (near, far):
        for _ in range(8):
            sim.step(joints + 0.1)
    assert_same(near, far)


def roll_out(backend, num_threads):
    """Observations, rewards and ends of a few seconds of extreme randomization, as one table."""
    scenes = [wavy_scene(), flat_scene()]
    sim = make_sim(backend, "go1", scenes, 6, num_threads=num_threads)
    randomize, _ = randomize_preset("extreme").supported_by(sim.capabilities)
    env = Env(sim, EnvCfg(randomize=randomize), seed=3)
    generator = torch.Generator().manual_seed(1)
    rows = []
    for _ in range(60):
        observations, reward, dones, _ = env.step(torch.randn(6, 12, generator=generator))
        rows.append(
            torch.cat(
                [observations["proprio"].flatten(), observations["scan"].flatten(), reward, dones.float()]
            )
        )
    sim.close()
    return torch.stack(rows)


def test_an_environment_is_the_same_bridged_or_not_at_any_number_of_threads():
    alone = roll_out("mujoco", 1)
    assert alone[:, -6:].sum() > 0  # some ended
    assert torch.equal(alone, roll_out("bridge:mujoco", 2))


@pytest.mark.slow
@pytest.mark.parametrize("check", CONFORMANCE, ids=lambda check: check.__name__)
def test_conformance(check):
    def make(scenes, num_envs, *, num_threads=None):
        return make_sim("bridge:mujoco", "go1", scenes, num_envs, num_threads=num_threads)

    assert not missing(check, make)
    for result in check(make):
        assert result.passed, result


def test_a_step_of_4096_environments_costs_at_most_2_ms():
    assert bench_bridge(4096, steps=60)["bridged_least_ms"] < 2.0


def test_bad_input_is_told_as_such_and_the_worker_goes_on():
    sim = make_sim("bridge:mujoco", "go1", [flat_scene()], 2)
    with pytest.raises(InputError, match="no parameter 'elasticity'; it has: kp"):
        sim.set_params(torch.tensor([0]), elasticity=torch.zeros(1))
    with pytest.raises(InputError, match="restitution of 2 to 2, expected 0 to 1"):
        sim.set_params(torch.tensor([0]), restitution=torch.tensor([2.0]))
    with pytest.raises(InputError, match="delays of 9 to 9 s"):
        sim.set_params(torch.tensor([0]), delay_s=torch.tensor([9.0]))
    stand(sim, control_steps=1)
    with pytest.raises(InputError, match="unknown physics backend 'nothing'"):
        make_sim("bridge:nothing", "go1", [flat_scene()], 2)


# ---------------------------------------------------------------------- and nothing is left


def test_a_toy_works():
    sim = toy()
    sim.step(torch.full((3, 12), 2.0), substeps=3)
    assert torch.equal(sim.state.joint_pos, torch.full((3, 12), 6.0))
    with pytest.raises(InputError, match="kp 101"):
        sim.set_params(torch.tensor([0]), kp=torch.full((1, 12), 101.0))
    sim.set_params(torch.tensor([2]), kp=torch.full((1, 12), 7.0))
    assert sim.params["kp"][:, 0].tolist() == [0.0, 0.0, 7.0]
    for call in (
        lambda: sim.park(torch.tensor([0])),
        sim.state_dict,
        lambda: sim.set_scene(torch.tensor([0]), flat_scene()),
    ):
        with pytest.raises(InputError, match="has no"):
            call()
    pid = sim._worker.process.pid
    sim.close()
    sim.close()
    assert not is_running(pid)
    assert sim.state.joint_pos[0, 0] == 6.0
    with pytest.raises(BridgeError, match="closed"):
        sim.step(torch.zeros(3, 12))


def test_a_sim_that_goes_out_of_scope_takes_its_worker_along():
    sim = toy()
    pid = sim._worker.process.pid
    state = sim.state.joint_pos
    del sim
    assert wait_until(lambda: not is_running(pid))
    assert state.sum() == 0.0  # still readable


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("raises", r"failed in step: ZeroDivisionError: a defect"),
        ("dies", r"died during step \(exit status 7\)"),
    ],
)
def test_a_worker_that_fails_in_a_step(mode, message):
    sim = toy(mode)
    pid = sim._worker.process.pid
    for _ in range(2):  # told again, not hung
        with pytest.raises(BridgeError, match=message):
            sim.step(torch.zeros(3, 12))
    assert not is_running(pid)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("exits", r"died during start \(exit status 3\): no licence found"),
        (
            "old",
            r"failed in start: WireError: the client speaks version 1 of the bridge, the worker version 0",
        ),
        ("other layout", r"failed in start: WireError: the shared memory has another layout"),
        ("mute", r"did not answer start within 1 s and was killed"),
    ],
)
def test_a_worker_that_does_not_come_up(mode, message):
    with pytest.raises(BridgeError, match=message):
        toy(mode, start_timeout_s=1.0 if mode == "mute" else 20.0)


def test_a_program_that_is_not_there():
    with pytest.raises(InputError, match="cannot start the worker of toy: /nowhere/python: No such file"):
        BridgedSim(
            "toy",
            get_robot("go1"),
            [flat_scene()],
            1,
            device=torch.device("cpu"),
            command=("/nowhere/python",),
        )


def test_a_killed_worker():
    sim = toy()
    os.kill(sim._worker.process.pid, signal.SIGKILL)
    with pytest.raises(BridgeError, match=r"died during step \(SIGKILL\)"):
        sim.step(torch.zeros(3, 12))


def test_a_worker_that_hangs_is_killed():
    sim = toy(timeout_s=0.3)
    pid = sim._worker.process.pid
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(BridgeError, match=r"did not answer step within 0.3 s and was killed"):
        sim.step(torch.zeros(3, 12))
    assert not is_running(pid)


def test_a_call_that_is_interrupted_ends_the_sim():
    sim = toy()
    pid = sim._worker.process.pid
    os.kill(pid, signal.SIGSTOP)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
        sim.step(torch.zeros(3, 12))
    with pytest.raises(BridgeError, match="was interrupted during step"):
        sim.step(torch.zeros(3, 12))
    assert not is_running(pid)


CLIENT = """
import os, sys, time, torch
sys.path.insert(0, {folder!r})
from test_bridge import toy
sim = toy()
if {fork}:
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    print(child, flush=True)
print(sim._worker.process.pid, flush=True)
sim.step(torch.zeros(3, 12))
time.sleep(60)
"""


@pytest.mark.parametrize("fork", [False, True], ids=["plain", "with a forked child that holds the socket"])
def test_a_killed_client_leaves_no_worker(fork):
    code = CLIENT.format(folder=str(Path(__file__).parent), fork=fork)
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = int(client.stdout.readline()) if fork else None
    worker = int(client.stdout.readline())
    assert is_running(worker)
    time.sleep(0.2)
    client.kill()
    client.wait()
    client.stdout.close()
    gone = wait_until(lambda: not is_running(worker))
    if child is not None:
        os.kill(child, signal.SIGKILL)
    assert gone


def test_a_forked_child_that_ends_leaves_the_worker_alone():
    sim = toy()
    child = os.fork()
    if child == 0:
        sim._worker._finalizer()
        os._exit(0)
    os.waitpid(child, 0)
    sim.step(torch.ones(3, 12), substeps=1)
    assert sim.state.joint_pos[0, 0] == 1.0


def test_block_layout_is_aligned_and_checked():
    layout = wire.state_layout(5, 12, 4)
    fd = wire.create_block(layout)
    try:
        arrays = wire.map_block(fd, layout)
        arrays["state/invalid"][3] = True
        again = wire.map_block(fd, layout)
        assert again["state/invalid"].tolist() == [False, False, False, True, False]
        assert all(a.ctypes.data % 64 == 0 for a in arrays.values())
        with pytest.raises(wire.WireError, match="another layout"):
            wire.map_block(fd, wire.state_layout(4, 12, 4))
        os.pwrite(fd, b"something", 0)
        with pytest.raises(wire.WireError, match="not a bridge's block"):
            wire.map_block(fd, layout)
    finally:
        os.close(fd)
