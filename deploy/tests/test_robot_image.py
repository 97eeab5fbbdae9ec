"""What can be said of docker/robot.Dockerfile without Docker (which builds it nowhere in these tests)."""

import re
from pathlib import Path

import onnxruntime

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker" / "robot.Dockerfile").read_text().replace("\\\n", " ")
STEPS = [line for line in TEXT.splitlines() if line and not line.startswith("#")]


def test_both_stages_have_the_same_python():
    bases = [line.split()[1] for line in STEPS if line.startswith("FROM")]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    version = re.search(r"python:(3\.\d+)-slim", bases[0])
    assert version is not None
    assert set(re.findall(r"python(3\.\d+)/", TEXT)) == {version.group(1)}


def test_it_does_not_run_as_root_and_starts_the_command():
    users = [line.split()[1] for line in STEPS if line.startswith("USER")]
    assert users == ["robot"]
    last_run = max(i for i, line in enumerate(STEPS) if line.startswith("RUN"))
    assert STEPS.index("USER robot") > last_run
    assert 'ENTRYPOINT ["gaussgym-deploy"]' in STEPS


def test_what_is_copied_is_there():
    copied = [line.split()[1:-1] for line in STEPS if line.startswith("COPY") and "--from" not in line]
    assert copied == [["deploy"]]
    assert (ROOT / "deploy" / "robot-constraints.txt").is_file()
    assert "-c deploy/robot-constraints.txt" in TEXT


def test_package_lists_are_removed_and_cyclone_is_the_robots():
    for line in STEPS:
        assert "apt-get update" not in line or "rm -rf /var/lib/apt/lists/*" in line
    assert "cyclonedds==0.10.2" in TEXT


def test_what_is_removed_from_onnxruntime_exists_in_it():
    folder = Path(onnxruntime.__file__).parent
    removed = re.findall(r"onnxruntime/(\S+)", TEXT)
    assert len(removed) == 4
    for pattern in removed:
        assert list(folder.glob(pattern)), pattern
