import errno

import pytest
from gaussgym_scene import InputError, StageError, command


def raising(error):
    def work():
        raise error

    return work


def test_success_prints_the_path_last(capsys):
    assert command.run(lambda: "runs/a/scene.json") == 0
    assert capsys.readouterr().out == "runs/a/scene.json\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("two\nlines"), "error: two lines\n"),
        (StageError("gate not passed"), "error: gate not passed\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "x/y.ply"),
            "error: x/y.ply: No space left on device\n",
        ),
    ],
)
def test_what_a_user_can_act_on_is_one_line_and_status_2(capsys, error, line):
    assert command.run(raising(error)) == 2
    assert capsys.readouterr().err == line


def test_ctrl_c_is_130(capsys):
    assert command.run(raising(KeyboardInterrupt())) == 130
    assert "goes on from there" in capsys.readouterr().err


def test_our_own_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        command.run(raising(ZeroDivisionError()))
