"""Garbage in, limits out: whatever is read and whatever the policy gives, what arrives at the robot is within limits and finite.

Hypothesis draws pools of nasty numbers, how often they occur, and seeds; numpy spreads them over sessions of control steps. The
check sits in the robot, behind runtime and supervisor. The long version counts to a million control steps (slow).
"""

import time

import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.guards import FAULT_KINDS, GuardLimits
from gaussgym_deploy.operator import OperatorCommand
from gaussgym_deploy.robot_io import JointCommand, RobotState
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.states import Mode
from gaussgym_deploy.supervisor import InProcessLink, Supervisor
from gaussgym_deploy.testing import DEFAULT_POSE, HEIGHT, POSITION_LIMIT, WIDTH, make_bundle
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

STEPS = 500
DT_S = 0.02
NASTY = np.array([
    0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, -5e-324, 1e-30, 1e6, -1e6, 999999.0, 1.0000001e6, 1e30, -1e154, 1.4e154, 1e308,
    -1.7e308, 3.5e38, 2.0**31, 2.0**63, -0.86, 0.86, 4.5, -2.82, -0.89, 1.01, 1.0100001, 30.0, 45.0, 45.0001, np.pi, -1e-9,
])  # fmt: skip
WIDTHS = {
    "joint_pos": 12, "joint_vel": 12, "quat_wxyz": 4, "ang_vel_b": 3, "command": 3, "lin_acc_b": 3, "joint_torque": 12,
    "motor_temperature_c": 12, "position_w": 3,
}  # fmt: skip
NUMBERS = ("battery_fraction", "t_s", "rgb_t_s", "corrupt", "out_of_order", "rival_writers", "now_s")

pools = st.lists(st.floats(allow_nan=True, allow_infinity=True, width=64), min_size=0, max_size=40)
sessions = st.fixed_dictionaries({
    "pool": pools,
    "seed": st.integers(0, 2**32 - 1),
    "spoiled": st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.3]),  # share of single readings
    "odd": st.sampled_from([0.0, 0.002, 0.02]),  # share of steps in which a time, a count or an image is odd
    "noise": st.sampled_from([0.0, 0.05, 1.0, 30.0]),
    "wild": st.sampled_from([0.0, 0.01, 0.3, 1.0]),  # share of nasty actions; and the size of the others
    "gain": st.sampled_from([0.1, 3.0, 1e3, 1e30]),
    "rogue": st.sampled_from([0.0, 0.0, 0.01]),  # share of steps in which garbage goes past the runtime
    "stand_s": st.sampled_from([0.0, 0.0, 0.1]),
    "operator": st.booleans(),
    "network": st.integers(0, 19).map(lambda number: number == 0),  # the real networks on garbage
})  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    directory = tmp_path_factory.mktemp("b") / "policy"
    return PolicyBundle.load(make_bundle(directory, steps=6, action_clip=4.0))


class Watcher:
    """The robot: hands out garbage, and checks what arrives."""

    def __init__(self, bundle):
        limits = GuardLimits.of(bundle.guards)
        self.state = RobotState.zeros(12)
        self.kp, self.kd = bundle.kp + 1e-9, np.maximum(bundle.kd, 3.0) + 1e-9
        self.lower = POSITION_LIMIT[:, 0] - limits.target_margin_rad - 1e-9
        self.upper = POSITION_LIMIT[:, 1] + limits.target_margin_rad + 1e-9
        self.rate_rad = limits.target_rate_rad_s * DT_S + 1e-9
        self.last_q = np.full(12, np.nan)
        self.commands = self.stiff = 0
        self.may_be_stiff = True
        self.wrong = []

    def read(self):
        return self.state

    def write(self, command):
        """Judge; an assertion raised in here would be taken for a link that refuses."""
        q, kp, kd = command.q, command.kp, command.kd
        # NaN fails every comparison
        within = bool(
            (kp >= 0.0).all() and (kp <= self.kp).all() and (kd >= 0.0).all() and (kd <= self.kd).all()
            and (np.abs(q) < 1e3).all()
        )  # fmt: skip
        self.commands += 1
        if kp.any():
            within = within and bool((q >= self.lower).all() and (q <= self.upper).all())
            if not within:
                self.wrong.append(f"beyond limits: {command}")
            if not self.may_be_stiff:
                self.wrong.append(f"stiff after a fault: {command}")
            if (np.abs(q - self.last_q) > self.rate_rad).any():
                self.wrong.append(f"too fast: {command} after {self.last_q}")
            self.stiff += 1
            self.last_q[:] = q
        else:
            if not within:
                self.wrong.append(f"beyond limits: {command}")
            self.last_q[:] = np.nan

    def close(self):
        pass


class WildPolicy:
    """Stands for the networks: gives what the session drew; sometimes the wrong number of actions, sometimes it raises."""

    needs_camera, inference_s, hidden, feature = True, 0.0, None, None

    def __init__(self, actions, odd):
        self.actions, self.odd, self.row = actions, odd, 0

    def reset(self):
        pass

    def act(self, proprio, rgb=None):
        if self.odd[self.row]:
            if self.row % 2:
                raise RuntimeError("out of memory")
            return self.actions[self.row, :11]
        return self.actions[self.row]


class WildOperator:
    def __init__(self, velocity, odd):
        self.velocity, self.odd, self.row = velocity, odd, 0

    def read(self, state, now_s):
        if self.odd[self.row]:
            kind = self.row % 5
            if kind == 0:
                raise OSError("unplugged")
            stop, mode = (
                ("button" if kind == 1 else None),
                {2: "no such mode", 3: "stand", 4: "damp"}.get(kind),
            )
            return OperatorCommand(
                self.velocity[self.row], now_s - 0.1 * (self.row % 4), stop=stop, mode=mode
            )
        return OperatorCommand(self.velocity[self.row], now_s, mode="run")

    def close(self):
        pass


class Session:
    """One draw of hypothesis, spread over ``STEPS`` control steps."""

    def __init__(self, bundle, draw):
        self.bundle, self.draw = bundle, draw
        self.rng = np.random.default_rng(draw["seed"])
        self.pool = np.concatenate([NASTY, np.array(draw["pool"], dtype=np.float64)])
        self.readings = {name: self._spoil(self._good(name), draw["spoiled"]) for name in WIDTHS}
        t_s = 7000.0 + DT_S * np.arange(STEPS)
        good = {
            "battery_fraction": 0.7,
            "t_s": t_s,
            "rgb_t_s": np.floor(t_s * 10) / 10,
            "now_s": t_s - 6900.0,
        }
        self.numbers = {
            name: self._spoil(np.broadcast_to(good.get(name, 0.0), STEPS), draw["odd"] / 4)
            for name in NUMBERS
        }
        self.numbers["now_s"][~np.isfinite(self.numbers["now_s"])] = 1e9  # a monotonic clock jumps at worst
        self.odd = self.rng.random((4, STEPS)) < draw["odd"]
        self.images = self.rng.integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
        self.rogue = self.rng.random(STEPS) < draw["rogue"]
        self.rogue_commands = self._spoil(
            np.tile(np.r_[DEFAULT_POSE, bundle.kp, bundle.kd], (STEPS, 1)), 0.05
        )
        with np.errstate(over="ignore"):
            wild = self._spoil(self.rng.normal(0.0, draw["gain"], (STEPS, 12)), draw["wild"] / 12)
            self.policy = WildPolicy(wild.astype(np.float32), self.odd[0])
        self.operator = None
        if draw["operator"]:
            self.operator = WildOperator(
                self._spoil(self.rng.normal(size=(STEPS, 3)), draw["spoiled"]), self.odd[1]
            )

    def _good(self, name):
        rng, noise = self.rng, self.draw["noise"]
        centre = {
            "joint_pos": DEFAULT_POSE,
            "quat_wxyz": [1.0, 0.0, 0.0, 0.0],
            "motor_temperature_c": 40.0,
        }.get(name, 0.0)
        size = {"joint_pos": 0.02, "quat_wxyz": 0.01, "joint_vel": 1.0}.get(name, 0.3)
        return centre + rng.normal(0.0, size * noise, (STEPS, WIDTHS[name]))

    def _spoil(self, values, share):
        values = np.array(values, dtype=np.float64)
        mask = self.rng.random(values.shape) < share
        values[mask] = self.rng.choice(self.pool, int(mask.sum()))
        return values

    def runtime(self, link):
        runtime = Runtime(self.bundle, link, operator=self.operator, damp_s=0.0, stand_s=self.draw["stand_s"])
        if not self.draw["network"]:
            runtime._policy = self.policy
        return runtime

    def show(self, state, row):
        """Readings of a step; every one of them may be odd."""
        for name, values in self.readings.items():
            setattr(state, name, values[row])
        for name in ("battery_fraction", "t_s", "rgb_t_s"):
            setattr(state, name, float(self.numbers[name][row]))
        for name in ("corrupt", "out_of_order", "rival_writers"):
            value = self.numbers[name][row]
            setattr(state, name, int(value) if np.isfinite(value) else 7)
        state.rgb = self.images[(row // 5) % 8]
        if self.odd[2, row]:
            state.rgb = [
                None,
                self.images[0][:4],
                np.zeros((HEIGHT, WIDTH, 3), np.uint8),
                self.images[0].astype(float),
            ][row % 4]
        if self.odd[3, row]:
            state.joint_pos = [np.zeros(11), np.zeros((1, 12)), np.zeros(0), self.readings["joint_pos"][row]][
                row % 4
            ]


def play(bundle, draw, runtimes):
    """Run a session; returns control steps by what happened."""
    session, robot = Session(bundle, draw), Watcher(bundle)
    link = InProcessLink(12)
    key = (draw["stand_s"], draw["operator"], draw["network"])
    runtime = runtimes.get(key)
    if runtime is None:  # opening networks takes longer than a session
        runtime = runtimes[key] = session.runtime(link)
    runtime.robot, runtime.operator = link, session.operator
    if not draw["network"]:
        runtime._policy = session.policy
    supervisor, since, kinds = Supervisor(bundle, robot, link), 0, {}
    runtime.goal = runtime._last_goal = Mode.RUN
    runtime.restart(float(session.numbers["now_s"][0]))
    running = 0
    for row in range(STEPS):
        session.policy.row = row
        if session.operator is not None:
            session.operator.row = row
        now_s = float(session.numbers["now_s"][row])
        session.show(robot.state, row)
        robot.may_be_stiff = supervisor.fault is None
        supervisor.step(now_s)
        runtime.control(link.read(), now_s)
        running += runtime.machine.mode is Mode.RUN
        if session.rogue[row]:
            link.write(JointCommand(*session.rogue_commands[row].reshape(3, 12)))
            robot.last_q[:] = np.nan  # whoever writes past the runtime knows no rate
        supervisor.step(now_s + 1e-3)
        if session.rogue[row]:
            robot.last_q[:] = np.nan
        assert robot.wrong == []
        fault = runtime.machine.fault
        since = 0 if fault is None and supervisor.fault is None else since + 1
        if since == 5:  # damped five times: another try
            for found in (fault, supervisor.fault):
                if found is not None:
                    kinds[found.kind] = kinds.get(found.kind, 0) + 1
            supervisor, since = Supervisor(bundle, robot, link), 0
            link.latest_command()
            robot.last_q[:] = np.nan
            runtime.restart(now_s)
    return {"steps": STEPS, "running": running, "stiff": robot.stiff, "commands": robot.commands, **kinds}


SUPERVISOR_KINDS = {"heartbeat", "runtime_gone", "bad_command", "state_age", "state_shape", "link"}


def rehearse(bundle, steps):
    """Sessions until so many control steps are done; returns the sums."""
    sums, runtimes = {}, {}

    @settings(
        max_examples=steps // STEPS, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # shrinking takes minutes and shows little more
    )  # fmt: skip
    @given(draw=sessions)
    def garbage(draw):
        for key, value in play(bundle, draw, runtimes).items():
            sums[key] = sums.get(key, 0) + value

    garbage()
    faults = set(sums) - {"steps", "running", "stiff", "commands"}
    assert "internal" not in faults  # nothing raised inside a control step
    assert faults <= set(FAULT_KINDS) | SUPERVISOR_KINDS
    assert sums["running"] > 0.2 * sums["steps"]  # it is not all refused at the door
    assert sums["stiff"] > 0.2 * sums["steps"]
    return sums


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_twenty_thousand_steps_of_garbage(bundle):
    sums = rehearse(bundle, 20_000)
    assert sums["steps"] >= 20_000 - STEPS
    kinds = {
        "non_finite_state",
        "non_finite_action",
        "clock",
        "policy",
        "operator",
        "bad_command",
        "tilt",
    }
    assert kinds <= set(sums)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_million_steps_of_garbage(bundle):
    start_s = time.perf_counter()
    sums = rehearse(bundle, 1_000_000)
    assert sums["steps"] >= 1_000_000
    print(
        f"\n{sums['steps']} control steps in {time.perf_counter() - start_s:.0f} s: {dict(sorted(sums.items()))}"
    )
