"""The tethered first run: on a bench robot that somebody moves by hand, and on robots that are wired wrongly."""

import numpy as np
import pytest
from gaussgym_deploy.bundle import PolicyBundle
from gaussgym_deploy.checklist import Checklist
from gaussgym_deploy.operator import OperatorCommand
from gaussgym_deploy.runtime import Runtime
from gaussgym_deploy.states import Mode
from gaussgym_deploy.testing import JOINT_NAMES, FakeClock, FaultyRobot, make_bundle


class Hands:
    """Reads what the list asks for, and does it to the robot and to the operator's device.

    Attributes:
        doing: The question or hint that is being followed.
        refuse: Questions that contain this are answered with no.
    """

    def __init__(self):
        self.lines, self.doing, self.refuse, self._polls = [], "", "\0", 0
        self.mirrored = False  # an IMU that is mounted upside down
        self.swapped = {}  # limb moved: limb whose joints move

    def say(self, text):
        self.lines.append(text)
        if text.startswith("  >"):
            self.doing = text

    def ask(self, question):
        self.lines.append(question)
        self.doing, self._polls = question, 0

    def answer(self):
        self._polls += 1
        if self._polls < 5:
            return None
        return "n" if self.refuse in self.doing else "y"

    def move(self, state):
        """The robot's readings while hands do what `doing` says."""
        sign = -1.0 if self.mirrored else 1.0
        half = 0.2 * sign
        if "NOSE" in self.doing.upper() and "DOWN" in self.doing:
            state.quat_wxyz[:] = np.cos(half), 0.0, np.sin(half), 0.0
        if "RIGHT" in self.doing:
            state.quat_wxyz[:] = np.cos(half), np.sin(half), 0.0, 0.0
        if "LEFT" in self.doing:
            state.ang_vel_b[2] = sign
        if "Move the limb" in self.doing:
            limb = self.doing.split()[3]
            limb = self.swapped.get(limb, limb)
            for index, name in enumerate(JOINT_NAMES):
                state.joint_pos[index] += 0.3 * (name.split("_")[0] == limb)

    def read(self, state, now_s):
        """As the operator's device."""
        command = OperatorCommand(velocity=np.array([0.3, 0.0, 0.1]))
        command.alive_s = now_s
        if "Let go" in self.doing:
            self._gone_s = getattr(self, "_gone_s", now_s)
            command.alive_s = self._gone_s
            if now_s - self._gone_s > 2.0:
                self.doing = ""
        if "Press the emergency stop" in self.doing:
            self.doing, command.stop = "", "pressed"
        return command

    def close(self):
        self.lines.append("closed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PolicyBundle.load(make_bundle(tmp_path_factory.mktemp("bundle"), vision=True))


def walk(bundle, hands, tmp_path, *, operator=True, spoil=None):
    clock = FakeClock()
    robot = FaultyRobot(clock)
    robot.spoil = spoil or hands.move
    checklist = Checklist(hands, hands if operator else None, picture=tmp_path / "camera.png", run_s=1.0)
    runtime = Runtime(bundle, robot, operator=checklist, clock=clock, sleep=clock.sleep, stand_s=1.0)
    checklist.attach(runtime)
    runtime.run(300.0)
    return checklist, runtime, robot


def test_a_healthy_robot_passes_every_step(bundle, tmp_path):
    hands = Hands()
    checklist, runtime, robot = walk(bundle, hands, tmp_path)
    assert [result for result in checklist.results if not result.passed] == []
    assert len(checklist.results) == 11
    assert checklist.passed
    assert runtime.machine.fault is None
    assert robot.closed
    assert "closed" in hands.lines
    assert (tmp_path / "camera.png").read_bytes().startswith(b"\x89PNG")
    # The list ends damped, and the policy was run.
    assert runtime.machine.mode is Mode.DAMP
    assert runtime.report().ticks_by_mode["run"] >= 45
    assert all(kp.max() == 0.0 for _, _, kp, _ in robot.commands[-20:])


def test_nothing_is_sent_before_the_damping_step(bundle, tmp_path):
    hands = Hands()
    _, _, robot = walk(bundle, hands, tmp_path)
    first = next(index for index, line in enumerate(hands.lines) if "damping" in line and line[0].isdigit())
    assert "Motors are switched to damping" in hands.lines[first + 1]
    # The first command is damping.
    assert robot.commands[0][2].max() == 0.0


@pytest.mark.parametrize(
    ("change", "step", "found"),
    [
        (lambda hands: setattr(hands, "mirrored", True), "gravity and turn rate", "other sign"),
        (lambda hands: hands.swapped.update(FR="FL"), "every leg", "FR: its joints moved by 0.0"),
        (lambda hands: setattr(hands, "refuse", "upright, ahead"), "camera", "answered 'n'"),
        (lambda hands: setattr(hands, "refuse", "give way slowly"), "damping", "answered 'n'"),
        (lambda hands: setattr(hands, "refuse", "Hands off"), "standing in the harness", "said no"),
    ],
)
def test_the_first_step_that_fails_ends_the_list(bundle, tmp_path, change, step, found):
    hands = Hands()
    change(hands)
    checklist, runtime, robot = walk(bundle, hands, tmp_path)
    assert not checklist.passed
    assert all(result.passed for result in checklist.results[:-1])
    last = checklist.results[-1]
    assert step in last.name
    assert found in last.found
    assert all(kp.max() == 0.0 for _, _, kp, _ in robot.commands[-20:])
    assert runtime.report().ticks_by_mode["run"] == 0


def test_a_robot_that_is_not_level_fails(bundle, tmp_path):
    hands = Hands()

    def spoil(state):
        state.quat_wxyz[:] = np.cos(0.2), 0.0, np.sin(0.2), 0.0

    checklist, _, _ = walk(bundle, hands, tmp_path, spoil=spoil)
    assert checklist.results[-1].name == "level"
    assert "tilted by 22.9 deg" in checklist.results[-1].found


def test_a_fault_while_it_stands_ends_the_list(bundle, tmp_path):
    hands = Hands()

    def spoil(state):
        hands.move(state)
        if "trembling" in hands.doing:
            state.joint_vel[3] = np.nan

    checklist, runtime, _ = walk(bundle, hands, tmp_path, spoil=spoil)
    assert checklist.results[-1].name == "standing in the harness"
    assert "non_finite_state" in checklist.results[-1].found
    assert runtime.machine.fault is not None


def test_without_an_operator_its_steps_are_said_to_be_left_out(bundle, tmp_path):
    checklist, _, _ = walk(bundle, Hands(), tmp_path, operator=False)
    assert checklist.passed
    left = [result.name for result in checklist.results if "left out" in result.found]
    assert left == ["emergency stop", "operator lost"]


def test_a_robot_without_a_camera_frame_fails(bundle, tmp_path):
    hands = Hands()

    def spoil(state):
        hands.move(state)
        state.rgb = None

    checklist, _, _ = walk(bundle, hands, tmp_path, spoil=spoil)
    assert checklist.results[-1].name == "the camera looks ahead"
    assert "0.0 frames a second" in checklist.results[-1].found
