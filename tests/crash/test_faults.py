"""Links, disks, memory, CRIU and power fail while a box moves, and commands come in each other's way. Afterwards one node has
the box, with all that its clients were told is done, and the other node has nothing of it."""

import contextlib
import json
import os
import signal
import time

import pytest
from conftest import command_line, lines, until
from moves import DROVER, GIVEN, ORDERS, POINTS, Box, Halted, criu_that_restores, increments_on_disk, members, recover, served, settle
from rack import rack, shared  # noqa: F401: fixtures

pytestmark = [pytest.mark.leaves, pytest.mark.limit(240)]


def runs(lab, box):
    """The nodes whose kernel lets processes of the box run, but for a box that CRIU is still making."""
    found = []
    for node in lab.nodes:
        events = lines(lab.group / node / "drover" / box.name / "cgroup.events")
        if "populated 1" in events and "frozen 0" in events and not criu_on(lab, node):
            found.append(node)
    return found


def criu_on(lab, node):
    return [pid for pid in members(lab, node) if lines(f"/proc/{pid}/comm") == ["criu"]]


# The link

def cuts():
    quick = {"source.frozen": "drop", "destination.prepared": "down", "source.given": "down"}
    for point in POINTS:
        for how in ("down", "drop"):
            yield pytest.param(point, how, marks=() if quick.get(point) == how else pytest.mark.exhaustive, id=f"{point}-{how}")


MODES = ["stop", "precopy"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point, how", cuts())
def test_link_is_cut(lab, rack, tmp_path, point, how, mode):
    """For longer than the transport bears, but not than both sides ask each other by themselves."""
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    lab.link(move.destination, how)
    try:
        move.resume()
        for _ in range(80):
            assert len(runs(lab, rack.box)) <= 1
            time.sleep(0.1)
    finally:
        lab.link(move.destination, "up")
    status = move.go_on()
    settle(lab, move, "at once")
    owner = rack.box.node()
    if point in GIVEN:
        assert owner == move.destination
    elif status in (1, 3):
        assert owner == move.source
    rack.check(owner)


@pytest.mark.parametrize("point", [pytest.param("destination.prepared", marks=pytest.mark.exhaustive), "source.given"])
def test_link_stays_cut(lab, rack, tmp_path, point):
    """Both sides give up. recover has no answer for the one that needs it, says so, and changes nothing."""
    move = Halted(rack.box, point, tmp_path)
    lab.link(move.destination, "down")
    try:
        move.kill("source")
        move.kill("destination")
        move.resume()
        (_, (out, err), status), = recover(lab, [move.destination])
        assert status == 4, err
        (settled,) = json.loads(out)
        assert (settled["settled"], settled["what"]) == (
            False, f"box {rack.box.name} is here frozen, and {move.source} does not say whose it is: "
                   f"run recover again when {move.source} answers")
        assert runs(lab, rack.box) == []
    finally:
        lab.link(move.destination, "up")
    settle(lab, move, "destination first")
    rack.check(move.destination if point in GIVEN else move.source)


def test_slow_link(lab, rack):
    lab.link(rack.box.other(), "slow", "10mbit")
    rack.box.migrate()
    rack.check(rack.box.node())


# Memory and disks

def test_destination_has_no_memory_left(lab, rack, tmp_path):
    """The preflight saw enough of it; when CRIU restores the box there is none: drover-node itself needs 81 MB of addresses, CRIU 88."""
    rsh = tmp_path / "rsh"
    rsh.write_text('#!/bin/sh\nnode=$1; shift\nexec ssh -i /etc/ssh/key "$node" "ulimit -v 84000; exec $*"\n')
    rsh.chmod(0o755)
    source, other = rack.box.node(), rack.box.other()
    result = rack.box.migrate("--rsh", str(rsh), check=False)
    assert result.returncode, result.stderr
    report, error = json.loads(result.stdout), json.loads(result.stderr.splitlines()[-1])["error"]
    assert (result.returncode, report["outcome"]) == (3, "rolled_back")
    # Or what its bringer of memory says, which hears of it first.
    assert error.startswith((f"{other}: CRIU could not restore the box from images", f"{other}: CRIU did not restore the box")), error
    rack.check(source)


@pytest.mark.parametrize("mode", MODES)
def test_source_has_no_room_for_the_images(lab, rack, tmp_path, mode):
    """Its /run has been filled since the preflight."""
    source = rack.box.node()
    move = Halted(rack.box, "source.rounds", tmp_path, "--mode", mode, "--force")
    used = int(lab.exec(source, "df", "--output=used", "-k", "/run").stdout.split()[1])
    lab.exec(source, "mount", "-o", f"remount,size={used + 256}k", "/run")
    try:
        status = move.go_on()
    finally:
        lab.exec(source, "mount", "-o", "remount,size=50%", "/run")
    assert (status, json.loads(move.out)["outcome"]) == (3, "rolled_back"), move.err
    assert "CRIU could not freeze the box into images" in json.loads(move.err.splitlines()[-1])["error"]
    rack.check(source)


@pytest.fixture
def own_disk(lab, templates):
    """A box on node1, whose /var/lib/drover is a small disk; what fills that disk is a file there."""
    before = lab.inventory()
    lab.exec("node1", "mount", "-t", "tmpfs", "-o", "size=1g", "small", DROVER)
    box = Box(lab, "full", "shell", 31)
    try:
        lab.exec("node1", "cp", "-a", *(templates / part for part in ("layers", "templates", "keys")), DROVER)
        yield box.start()
    finally:
        lab.node("node1").path(f"{DROVER}/fill").unlink(missing_ok=True)
        with contextlib.suppress(AssertionError):
            box.destroy()
        lab.exec("node1", "umount", DROVER)
    until("nothing is left", lambda: not lab.inventory() - before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("point", ["source.rounds", "source.prepared", "source.given"])
def test_source_disk_is_full(lab, own_disk, tmp_path, point, mode):
    """The move needs no room on it to succeed or to be taken back, but for the note of what was given."""
    move = Halted(own_disk, point, tmp_path, "--mode", mode, "--force")
    lab.exec("node1", "sh", "-c", f"dd if=/dev/zero of={DROVER}/fill bs=4k status=none || :")
    status = move.go_on()
    states = own_disk.states()
    assert status in (0, 3, 4), move.err
    assert len(runs(lab, own_disk)) == 1
    if status == 4:
        assert states == {"node1": "given", "node2": "running"}
        assert "No space left on device" in move.err or "disk of this node is full" in move.err
    lab.node("node1").path(f"{DROVER}/fill").unlink()
    settle(lab, move, "source first")
    assert own_disk.states() == {"node1" if status == 3 else "node2": "running"}


# CRIU

@pytest.mark.parametrize("mode", MODES)
def test_criu_is_killed_while_it_dumps(lab, rack, tmp_path, mode):
    """At its post-dump notification: it has locked the box's network, and has its connections in repair mode. (Earlier it has
    code of its own in the box, and may take it along: docs/decisions/0005.)"""
    upper = rack.box.upper()
    move = Halted(rack.box, "source.rounds", tmp_path, "--mode", mode, "--force")
    # More than the pipes to ssh take, so that the last round waits while ssh is stopped.
    upper.joinpath("large").write_bytes(os.urandom(16 << 20))
    os.kill(move.pids["transport"], signal.SIGSTOP)
    move.resume()
    # Written at the end, and then CRIU waits for us, who wait for ssh.
    network = lab.node(move.source).path(f"/run/drover/boxes/{rack.box.name}/images/network.json")
    until("CRIU has dumped", network.exists, timeout=40)
    time.sleep(0.3)
    (criu,) = criu_on(lab, move.source)
    os.kill(criu, signal.SIGKILL)
    until("CRIU has ended", lambda: not criu_on(lab, move.source))
    assert "frozen 1" in lines(lab.group / move.source / "drover" / rack.box.name / "cgroup.events")
    os.kill(move.pids["transport"], signal.SIGCONT)
    assert move.go_on() == 3, move.err
    assert "CRIU could not freeze the box into images" in json.loads(move.err.splitlines()[-1])["error"]
    rack.check(move.source)
    rack.box.migrate()  # as if nothing had happened
    rack.check(move.destination)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("delay_ms", [0, 60, *(pytest.param(ms, marks=pytest.mark.exhaustive) for ms in (20, 40, 80, 100, 120, 160))])
def test_criu_is_killed_while_it_restores(lab, rack, delay_ms, mode):
    source, other = rack.box.node(), rack.box.other()
    child = lab.popen(source, "drover-node", "--json", "box", "migrate", rack.box.name, "--to", other, "--mode", mode, "--force")
    images = lab.node(other).path(f"/run/drover/boxes/{rack.box.name}/images/inventory.img")
    group = lab.group / other / "drover" / rack.box.name / "cgroup.procs"

    def restoring():
        # It works in the box's own group. The same name has what checks the version, earlier.
        return [int(pid) for pid in lines(group) if lines(f"/proc/{pid}/comm") == ["criu"]] if images.exists() else []

    until("CRIU restores", lambda: restoring() or child.poll() is not None, timeout=60)
    time.sleep(delay_ms / 1000)
    for pid in restoring():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    out, err = child.communicate(timeout=100)
    assert child.returncode in (0, 3), err
    if child.returncode:
        assert json.loads(out)["outcome"] == "rolled_back"
    until("the other side has ended", lambda: not [pid for pid in members(lab, other)
                                                   if command_line(pid).startswith("drover-node receive")], timeout=60)
    rack.check(source if child.returncode else other)


@pytest.mark.parametrize("mode", MODES)
def test_criu_alone_is_killed_while_it_restores(lab, rack, tmp_path, mode):
    """And not what it has begun to restore, which waits for it."""
    move = Halted(rack.box, "destination.network", tmp_path, "--mode", mode, "--force")
    os.kill(criu_that_restores(move), signal.SIGKILL)
    assert move.go_on() == 3, move.err
    assert "CRIU could not restore the box from images" in json.loads(move.err.splitlines()[-1])["error"]
    rack.check(move.source)


# Commands that meet

def test_second_migrate(lab, rack, tmp_path):
    move = Halted(rack.box, "source.leaving", tmp_path)
    second = lab.exec(move.source, "drover-node", "box", "migrate", rack.box.name, "--to", move.destination, check=False)
    assert second.returncode == 1
    assert [line for line in second.stderr.splitlines() if not line.startswith("hint: ")] == [
        f"error: box {rack.box.name} is busy: another command is changing or moving it"]
    assert move.go_on() == 0, move.err
    rack.check(move.destination)


def test_move_to_where_it_comes_from(lab, rack, tmp_path):
    """The other node's command, of a box that is only arriving there."""
    move = Halted(rack.box, "destination.prepared", tmp_path)
    second = lab.exec(move.destination, "drover-node", "box", "migrate", rack.box.name, "--to", move.source, check=False)
    assert second.returncode == 1 and second.stderr.startswith(f"error: box {rack.box.name} is busy"), second.stderr
    assert move.go_on() == 0, move.err
    rack.check(move.destination)


@pytest.mark.parametrize("point", ["source.prepared", "source.given", "destination.running",
                                   *(pytest.param(point, marks=pytest.mark.exhaustive)
                                     for point in ("source.frozen", "destination.prepared", "destination.named"))])
@pytest.mark.parametrize("mode", MODES)
def test_recover_everywhere_at_once_and_twice(lab, rack, tmp_path, point, mode):
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    move.kill("source")
    move.kill("destination")
    move.go_on()
    everywhere = (move.source, move.destination, move.source, move.destination)
    for _, (_, err), status in recover(lab, [everywhere]):
        assert status in (0, 4), err
    settle(lab, move, "at once")
    rack.check(move.destination if point in GIVEN else move.source)


def test_recover_leaves_a_move_alone(lab, rack, tmp_path):
    move = Halted(rack.box, "source.prepared", tmp_path)
    for _, (out, err), status in recover(lab, [move.source, move.destination]):
        assert status == 4, err
        assert [settled["what"] for settled in json.loads(out)] == [f"box {rack.box.name} is busy: a command is working on it"]
    assert move.go_on() == 0, move.err
    rack.check(move.destination)


# Power

@pytest.fixture
def alone(lab, templates, shared):
    """A redis box of its own: its clients lose their connections with the node that they are connected to. So
    would the box that the other tests share."""
    shared.end()
    box = Box(lab, "power", "redis", 32).start().answers(6379)
    before = lab.exec("client", "redis-cli", "-h", box.ip4, "incr", "count").stdout
    assert before == "1\n"
    yield box
    lab.mend()
    for node in box.states():
        lab.exec(node, "drover-node", "recover", check=False)
    box.destroy()


@pytest.mark.parametrize("point, side, order", [
    pytest.param(point, side, ORDERS[number % 2], marks=() if (point, side) in (
        ("destination.prepared", "destination"), ("source.given", "source"), ("source.given", "destination")) else pytest.mark.exhaustive, id=f"{point}-{side}")
    for number, (point, side) in enumerate((point, side) for point in POINTS for side in ("source", "destination"))])
def test_power_cut(lab, alone, tmp_path, point, side, order):
    """Processes and frozen copies are gone, journals stay."""
    move = Halted(alone, point, tmp_path)
    node = move.source if side == "source" else move.destination
    lab.off(node)
    lab.on(node)
    if side == "source" and POINTS.index(point) < POINTS.index("destination.prepared"):
        move.kill("destination")  # it would wait for some minutes more: a cut cable looks the same
    move.go_on()
    assert len(runs(lab, alone)) <= 1
    settle(lab, move, order)
    owner = move.destination if point in GIVEN else move.source
    state = alone.states()
    if (point not in GIVEN and side == "source") or (state == {owner: "stopped"} and point == "source.running"):
        # It was this node's before, or the move had ended there: it would be stopped without a move as well.
        assert state == {owner: "stopped"}
        lab.exec(owner, "drover-node", "box", "start", alone.name)
    else:
        assert state == {owner: "running"}
    alone.answers(6379)
    assert lab.exec("client", "redis-cli", "-h", alone.ip4, "incr", "count").stdout == "2\n"
    assert increments_on_disk(alone) >= 2


# A box that is gone, or elsewhere, when it is asked for

def test_destroyed_after_it_was_kept(lab, templates, tmp_path):
    before = lab.inventory()
    box = Box(lab, "gone", "shell", 33).start()
    move = Halted(box, "destination.prepared", tmp_path)
    move.kill("source")
    move.kill("destination")
    lab.link("node2", "down")  # so that node1 cannot tell it
    (_, _, status), = recover(lab, ["node1"])
    assert status == 0
    lab.exec("node1", "drover-node", "box", "destroy", "--force", box.name)
    lab.link("node2", "up")
    assert box.states() == {"node2": "arriving"}
    (_, (out, err), status), = recover(lab, ["node2"])
    assert (status, json.loads(out)[0]["settled"]) == (0, True), err
    assert box.states() == {}
    until("nothing is left", lambda: not lab.inventory() - before)


def test_destroyed_before_it_was_confirmed(lab, templates, tmp_path):
    before = lab.inventory()
    box = Box(lab, "gone", "shell", 33).start()
    move = Halted(box, "source.given", tmp_path)
    move.kill("source")
    until("the destination has it", lambda: box.states().get("node2") == "running", timeout=60)
    served(lab, "node2")
    lab.exec("node2", "drover-node", "box", "destroy", "--force", box.name)
    assert box.states() == {"node1": "given"}
    (_, (out, err), status), = recover(lab, ["node1"])
    assert (status, json.loads(out)[0]["settled"]) == (0, True), err
    assert box.states() == {}
    until("nothing is left", lambda: not lab.inventory() - before)
