"""What ci/workbench says where it cannot make its root. A machine that is not Debian 13 is had by another os-release."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = "mount --bind $other /etc/os-release && "


@pytest.fixture
def fails(tmp_path):
    """Its error and its hint."""
    other = tmp_path / "os-release"
    other.write_text("VERSION_CODENAME=bookworm\n")

    def run(script, **environment):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DROVER_")}
        child = subprocess.run(["unshare", "--mount", "sh", "-ec", HERE + script], text=True, capture_output=True, timeout=50,
                               stdin=subprocess.DEVNULL, cwd=tmp_path,
                               env={**kept, "other": str(other), "workbench": str(ROOT / "ci/workbench"),
                                    "DROVER_WORKBENCH": str(tmp_path / "here/workbench"), **environment})
        assert child.returncode == 1, child
        error, hint = re.fullmatch(r"(?:workbench: .*\n)?error: (.*)\nhint: (.*)\n", child.stderr).groups()
        return error, hint
    return run


def test_without_root(fails):
    error, hint = fails("exec setpriv --reuid=65534 --clear-groups $workbench -- true")
    assert error == "ci/workbench needs root: it makes mounts and namespaces"
    assert hint == f"sudo {ROOT / 'ci/workbench'} -- true"


def test_without_space(fails, tmp_path):
    error, hint = fails("mkdir here && mount -t tmpfs -o size=10m none here && exec $workbench -- true")
    assert error == f"no space for the workbench: {tmp_path}/here/workbench has 10 MiB free, 6000 are needed"
    assert hint == "set DROVER_WORKBENCH to a directory on a larger disk"


def test_without_a_mirror(fails):
    error, hint = fails("mount -t tmpfs none /var/lib/apt && mount -t tmpfs none /etc/apt && exec $workbench -- true")
    assert error == "no Debian package mirror found in this host's apt sources"
    assert hint == "name one: DROVER_MIRROR=URL ci/workbench ..."


def test_a_mirror_that_does_not_answer(fails):
    error, hint = fails("exec $workbench -- true", DROVER_MIRROR="http://127.0.0.1:9/debian")
    assert error.startswith("the package mirror does not give what the workbench needs: Failed to fetch http://127.0.0.1:9/debian/")
    assert hint.startswith("name another one: DROVER_MIRROR=URL ci/workbench ...;")
