"""Power fails at every write of a slot's events: the disk always has a slot that boots, or it had none before."""

import ast
import itertools
import json
import re
import subprocess

import pytest
from conftest import checked

SECTOR = 512
UPDATE = ["mark-bad b", "activate b", "boot b", "confirm b", "mark-bad a", "activate a", "boot a", "mark-bad a", "boot b", "confirm b"]
WRITES = "trace=write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,ftruncate,truncate,rename,renameat,renameat2,unlink,unlinkat"


def run(*argv):
    return checked(subprocess.run([str(word) for word in argv], text=True, capture_output=True, timeout=60))


def by_model(path, event):
    return ["slot_model", "event", path, *event.split()]


def by_node(path, event):
    """What a node runs for it; the loader's events are the model's."""
    if event.startswith("boot"):
        return by_model(path, event)
    return ["drover-node", "--run-dir", path.parent / "run", "slot", *event.split(), "--slot-state", path]


def recorded(path, directory, command):
    """Does one event, and returns what it has written as (offset, bytes); anything but writes in place, then onto disk, fails."""
    trace = directory / "trace"
    # Only what touches the file: a command of a node also has locks and talk.
    run("strace", "-f", "-y", "-xx", "-s", 4096, "-P", path, "-e", WRITES, "-o", trace, *command)
    calls = re.findall(r"(\w+)\((.*)\) += (-?\d+)", trace.read_text())
    writes = []
    for call, arguments, result in calls[:-1]:
        data, size, offset = re.fullmatch(r'\d+<[^>]*>, ("[^"]*"), (\d+), (\d+)', arguments).groups()
        assert call == "pwrite64" and size == result, calls
        writes.append((int(offset), ast.literal_eval("b" + data)))
    assert calls[-1][0] == "fdatasync" and calls[-1][2] == "0", calls
    return writes


def torn(disk, writes):
    """The disk after each prefix of the writes, with the last one cut at each sector."""
    yield disk
    for k, (offset, data) in enumerate(writes):
        for end in range(SECTOR, len(data) + SECTOR, SECTOR):
            part = data[:end]
            yield disk[:offset] + part + disk[offset + len(part):]
        disk = disk[:offset] + data + disk[offset + len(data):]


@pytest.fixture
def installed(tmp_path, request):
    """A node whose slot a is confirmed, as slot_model has it."""
    run("slot_model", "states", tmp_path)
    for path in sorted(tmp_path.glob("*.before")):
        if b"first=a\na_health=confirmed\na_tries=3\nb_health=bad\n" in path.read_bytes():
            (tmp_path / "slot-state").write_bytes(path.read_bytes())
            return tmp_path / "slot-state"
    raise AssertionError("no such state")


@pytest.mark.parametrize("by", [by_model, by_node])
def test_every_prefix_has_a_slot_that_boots(installed, tmp_path, by):
    count, events = itertools.count(), UPDATE
    if by is by_node:  # which writes nothing where nothing changes: b is bad already
        before, events = installed.read_bytes(), UPDATE[1:]
        run(*by(installed, UPDATE[0]))
        assert installed.read_bytes() == before
    for event in events:
        before = installed.read_bytes()
        writes = recorded(installed, tmp_path, by(installed, event))
        assert [(offset, len(data)) for offset, data in writes] == [(0, SECTOR)], event
        disks = list(torn(before, writes))
        assert disks[-1] == installed.read_bytes() != before, event
        cut = [tmp_path / f"cut{next(count)}" for _ in disks]
        for path, disk in zip(cut, disks):
            path.write_bytes(disk)
        slots = run("slot_model", "judge", *cut).stdout.split()  # a disk that cannot be read is a failure
        assert not event.startswith("boot") or slots[0] == event[-1], (event, slots)
        assert len(slots) == len(disks) and set(slots) <= {"a", "b"}, (event, slots)
    assert next(count) == 2 * len(events)


def confirm(path, slot):
    """This machine is not healthy as a node: its root is not verified."""
    child = subprocess.run(["drover-node", "--json", "--run-dir", path.parent / "run", "confirm", "--no-reboot", "--slot", slot,
                            "--slot-state", path, "--health", path.parent / "none"], text=True, capture_output=True, timeout=60)
    assert child.returncode == 1, child
    return json.loads(child.stdout)


def test_an_unhealthy_trial_goes_back_in_one_write(installed, tmp_path):
    for event in ("activate b", "boot b"):
        run(*by_model(installed, event))
    before = installed.read_bytes()
    command = ["drover-node", "--run-dir", tmp_path / "run", "confirm", "--no-reboot", "--slot", "b", "--slot-state", installed,
               "--health", tmp_path / "none"]
    trace = tmp_path / "trace"
    child = subprocess.run([str(word) for word in ["strace", "-f", "-y", "-P", installed, "-e", WRITES, "-o", trace, *command]],
                           text=True, capture_output=True, timeout=60)
    assert child.returncode == 1 and "slot b is not healthy, and marked bad" in child.stdout, child
    assert re.findall(r"(pwrite64|fdatasync|write|rename)\(", trace.read_text()) == ["pwrite64", "fdatasync"]
    assert len(installed.read_bytes()) == len(before) == SECTOR
    assert run("slot_model", "judge", installed).stdout.split() == ["a"]


def test_without_a_way_back_an_unhealthy_slot_stays(installed):
    before = installed.read_bytes()
    said = confirm(installed, "a")
    assert said["confirmed"] is said["marked_bad"] is said["reboots"] is False, said
    assert installed.read_bytes() == before
