"""CRIU is started with a part of ours in it (box/lazy_memory.h, docs/decisions/0015). What if it is not, or says something
that cannot be: a script in the place of criu sees to that."""

import json
import re

import pytest
from boxes import inside_program
from conftest import until
from moves import Box, nothing_remains

# Between drover-node and CRIU. The part is in the shell already, which no longer has its variables.
WITHOUT = """#!/bin/sh
exec /usr/sbin/criu "$@"
"""
# A page that is in none of the process's mappings is put down before CRIU begins: sizes and places of box/lazy_scan.h.
WITH_A_STRANGE_PAGE = """#!/usr/bin/python3
import glob, os, struct, sys, time
found = {}
for fd in glob.glob(f"/proc/{open(f'/proc/{os.getppid()}/stat').read().rsplit(')')[1].split()[1]}/fd/*"):
    found[os.readlink(fd).removeprefix("/memfd:").removesuffix(" (deleted)")] = fd
if path := found.get("lazy_scan"):
    with open(path, "r+b", buffering=0) as shared:
        ranges = 0
        while not ranges:  # CRIU is started before the box is frozen and looked at
            time.sleep(0.005)
            shared.seek(0)
            ranges, room, runs, loaded = struct.unpack("4Q", shared.read(32))
        shared.seek(32 + 24 * room)
        process, begin, end = struct.unpack("3Q", shared.read(24))
        shared.seek(32)
        shared.write(struct.pack("3Q", 0x10000, 0x11000, process))
        shared.seek(16)
        shared.write(struct.pack("Q", 1))
    os.environ |= {"LD_PRELOAD": found["criu_part.so"], "DROVER_LAZY_SCAN": path}
os.execv("/usr/sbin/criu", ["criu", *sys.argv[1:]])
"""


@pytest.fixture
def box(lab, templates, tmp_path):
    """With a program in it that has some 50 MiB and looks at them all the time (tests/lab/inside.cc)."""
    box = Box(lab, "hidden", "debian-13", 48).start("node1").answers(22)
    program = box.upper() / "inside"
    program.write_bytes(inside_program(tmp_path))
    program.chmod(0o755)
    box.exec("sh", "-c", "setsid /inside churn 160 >/churned </dev/null 2>&1 & sleep 0.2")
    until("it has begun", lambda: turns(box) > 3, timeout=30)
    yield box
    lab.exec("node1", "drover-node", "recover", check=False, timeout=100)
    box.destroy()


def turns(box):
    text = (box.upper() / "churned").read_text()
    assert "wrong" not in text, text[-500:]
    return text.count("\n")


def goes_on(box):
    now = turns(box)
    until("it goes on", lambda: turns(box) > now + 12, timeout=60)


def migrate(lab, tmp_path, script):
    criu = tmp_path / "bin/criu"
    criu.parent.mkdir()
    criu.write_text(script)
    criu.chmod(0o755)
    return lab.exec("node1", "sh", "-c", f'PATH="{criu.parent}:$PATH" exec drover-node --json box migrate hidden --to node2 '
                                         "--mode postcopy --force", check=False, timeout=100)


def log_of_criu(lab, node):
    return lab.node(node).path("/run/drover/log/hidden.criu.log").read_text()


def lazy_pages_of_criu(lab):
    return sum(int(number) for number in re.findall(r"Pagemap generated: \d+ pages \((\d+) lazy\)", log_of_criu(lab, "node1")))


@pytest.mark.limit(120)
def test_criu_without_it_looks_at_each_page(lab, box, tmp_path):
    result = migrate(lab, tmp_path, WITHOUT)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["outcome"] == "moved"
    assert lazy_pages_of_criu(lab) > 8000
    # Nor does it pack a tmpfs. What tar has packed, tar unpacks.
    assert "drover: packed" not in log_of_criu(lab, "node1")
    assert "drover: unpacked" not in log_of_criu(lab, "node2")
    goes_on(box)
    box.migrate("--mode", "postcopy", "--force")  # and back, with it
    assert "drover: packed" in log_of_criu(lab, "node2")
    assert "drover: unpacked" in log_of_criu(lab, "node1")
    goes_on(box)


@pytest.mark.limit(120)
def test_memory_that_would_not_come_back_does_not_go(lab, box, tmp_path):
    before = lab.inventory()
    result = migrate(lab, tmp_path, WITH_A_STRANGE_PAGE)
    assert result.returncode == 3, result.stderr
    assert json.loads(result.stdout)["outcome"] == "rolled_back"
    said = json.loads(result.stderr.splitlines()[-1])
    assert re.fullmatch(r"memory of process \d+ at 0x10000 would not come back from CRIU's images", said["error"])
    until("the other node forgets it", lambda: box.states() == {"node1": "running"})
    goes_on(box)
    nothing_remains(lab, box, "node2", before)
    box.migrate("--mode", "postcopy", "--force")
    assert lazy_pages_of_criu(lab) < 4000
    goes_on(box)
