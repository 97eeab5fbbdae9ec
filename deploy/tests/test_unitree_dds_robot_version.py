"""The same DDS link under cyclonedds 0.10.2, the version that robots run, in a Python of its own.

Opt-in: ``GAUSSGYM_DDS_0_10`` names a Python that has it (``python3.8 -m venv V; V/bin/pip install cyclonedds==0.10.2 numpy``;
Python 3.11 and later must build it against Debian's cyclonedds-dev). Never mixed with 11.x in one domain: that crashes 0.10.2.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import gaussgym_deploy
import pytest

PYTHON = os.environ.get("GAUSSGYM_DDS_0_10")
PROGRAM = """
import json, subprocess, sys, time, types
import numpy as np
package = types.ModuleType("gaussgym_deploy")  # without its __init__: this Python need not have onnxruntime
package.__path__ = [sys.argv[1]]
sys.modules["gaussgym_deploy"] = package
if sys.argv[2] == "serve":
    from gaussgym_deploy.unitree.bench_server import main
    raise SystemExit(main(["--domain", sys.argv[3], "--until-orphaned"]))
from gaussgym_deploy.robot_io import JointCommand
from gaussgym_deploy.unitree.dds_link import DdsLink, DdsLinkCfg
from gaussgym_deploy.unitree.messages import MOTOR_NAMES
from gaussgym_deploy.unitree.simulated import free_domain
from gaussgym_deploy.unitree.versions import check_versions, cyclonedds_version
check_versions(cyclonedds_version(), "eth0", 0)  # would be allowed there
domain = free_domain()
robot = subprocess.Popen([sys.executable, __file__, sys.argv[1], "serve", str(domain)], stdout=subprocess.PIPE)
robot.stdout.readline()
link = DdsLink(MOTOR_NAMES, DdsLinkCfg(domain, "lo"))
command = JointCommand(np.full(12, 0.3), np.full(12, 20.0), np.full(12, 0.5))
for step in range(1500):
    state = link.read()
    if step % 10 == 0:
        link.write(command)
    time.sleep(0.002)
report = dict(link.report(), version=cyclonedds_version(), joint=float(state.joint_pos[0]))
link.close()
robot.terminate()
report["robot"] = json.loads(robot.communicate()[0])
print(json.dumps(report))
"""


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="GAUSSGYM_DDS_0_10 names no Python with cyclonedds 0.10.2")
def test_the_link_under_the_robots_version(tmp_path: Path) -> None:
    assert PYTHON is not None
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    source = str(Path(gaussgym_deploy.__file__).parent)
    done = subprocess.run(
        [PYTHON, str(program), source, "run"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["version"].startswith("0.10.")
    assert report["corrupt"] == report["robot"]["crc_errors"] == report["robot"]["refused"] == 0
    assert report["echoed"] >= 140
    assert abs(report["joint"] - 0.3) < 0.02
