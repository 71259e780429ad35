"""Links, disks, memory, CRIU and power fail while a box moves, and commands come in each other's way. Afterwards one node has
the box, with all that its clients were told is done, and the other node has nothing of it."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import time

import pytest
from conftest import command_line, lines, until
from moves import (DROVER, GIVEN, ORDERS, POINTS, Box, Halted, criu_has_dumped, criu_on, criu_that_restores, fill, filling,
                   hear_of_a_new_start, increments_on_disk, members, memory_or_disk, recover, runs, served, settle)
from rack import rack, shared, small_disk  # noqa: F401: fixtures
from test_move_postcopy import guards

LAZY = ["postcopy", "hybrid"]  # the box runs before all of its memory is at its new node
MODES = ["stop", "precopy", *LAZY]
pytestmark = [pytest.mark.leaves, pytest.mark.limit(240)]


def each(*axes, quick):
    """Every combination; those that are not quick are exhaustive."""
    for words in itertools.product(*axes):
        yield pytest.param(*words, marks=() if quick(*words) else pytest.mark.exhaustive, id="-".join(map(str, words)))


def all_brought(lab, move):
    """Until then a box that runs may lack memory, and `recover` says that it is too early."""
    until("nothing brings memory any more", lambda: not guards(lab, move.destination), timeout=110)


# The link

LINK = {"stop": {"source.frozen": "drop", "destination.prepared": "down", "source.given": "down"},
        "postcopy": {"source.frozen": "drop", "source.given": "down"},
        "hybrid": {"destination.prepared": "down", "source.given": "drop"}}
LINK["precopy"] = LINK["stop"]


@pytest.mark.parametrize("point, how, mode", each(POINTS, ("down", "drop"), MODES,
                                                  quick=lambda point, how, mode: LINK[mode].get(point) == how))
def test_link_is_cut(lab, rack, tmp_path, point, how, mode):
    """For longer than the transport bears, but not than both sides ask each other by themselves: the box goes on as soon as they
    have, at the source or, with memory that comes over a new connection, at the destination."""
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    lab.link(move.destination, how)
    try:
        move.resume()
        for _ in range(80):
            assert len(runs(lab, rack.box)) <= 1
            time.sleep(0.1)
    finally:
        lab.link(move.destination, "up")
    rack.client.check(timeout=40)  # nobody asks or tells for a minute without the box
    status = move.go_on()
    all_brought(lab, move)
    settle(lab, move, "at once")
    owner = rack.box.node()
    if point in GIVEN:
        assert owner == move.destination
    elif status in (1, 3):
        assert owner == move.source
    rack.check(owner)


@pytest.mark.parametrize("point, mode", each(("destination.prepared", "source.given"), MODES,
                                             quick=lambda point, mode: point == "source.given" and mode != "precopy"))
def test_link_stays_cut(lab, rack, tmp_path, point, mode):
    """Both sides give up. recover has no answer for the one that needs it, says so, and changes nothing."""
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
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
    all_brought(lab, move)
    rack.check(move.destination if point in GIVEN else move.source)


@pytest.mark.parametrize("mode", MODES)
def test_dropped_behind_a_cut_link(lab, rack, tmp_path, mode):
    """What had arrived of a box that was not prepared goes, and who brought its memory: no end of a connection tells them."""
    move = Halted(rack.box, "source.rounds", tmp_path, "--mode", mode, "--force")
    lab.link(move.destination, "down")
    try:
        move.kill("source")
        move.kill("destination")
        (_, (out, err), status), = recover(lab, [move.destination])
        assert status == 0, err
        assert not rack.left_on(move.destination)
    finally:
        lab.link(move.destination, "up")
    settle(lab, move, "source first")
    rack.check(move.source)


@pytest.mark.parametrize("mode", each(("precopy", *LAZY), quick=lambda mode: mode != "hybrid"))
def test_receiver_is_killed_when_the_box_is_restored(lab, rack, tmp_path, mode):
    """Before it has told anybody: who brought the memory ends by itself, and so does the frozen copy."""
    move = Halted(rack.box, "destination.restored", tmp_path, "--mode", mode, "--force")
    move.kill("destination")
    assert move.go_on() == 3, move.err
    until("nothing brings memory any more", lambda: not guards(lab, move.destination), timeout=20)
    until("the copy has ended", lambda: not lines(lab.group / move.destination / "drover" / rack.box.name / "cgroup.procs"))
    settle(lab, move, "destination first")
    rack.check(move.source)


@pytest.mark.parametrize("mode", MODES)
def test_slow_link(lab, rack, mode):
    lab.link(rack.box.other(), "slow", "10mbit")
    rack.box.migrate("--mode", mode, "--force")
    rack.check(rack.box.node())


class Following:
    """A move at the moment when the box runs at its new node, and much of its memory is at the old one: also in hybrid mode, since
    it was written after the rounds. Little is on its disk, which has only how that came about."""

    COPIES = 24  # of a MiB

    def __init__(self, lab, rack, tmp_path, mode):
        self.lab, self.rack = lab, rack
        redis = rack.client.other()
        fill(redis, 1)
        self.move = Halted(rack.box, "source.rounds", tmp_path, "--mode", mode, "--force")
        for number in range(self.COPIES):
            redis("COPY", "filled:0", f"copy:{number}", "REPLACE")
        lab.link(self.move.destination, "slow", "10mbit")
        self.move.resume()
        until("the box runs there", lambda: self.incomplete() and runs(lab, rack.box) == [self.move.destination], timeout=60)

    def incomplete(self):
        """There is memory on the way."""
        return self.rack.box.states() == {self.move.source: "given", self.move.destination: "settling"} \
            and guards(self.lab, self.move.destination)

    def started_from_disk(self):
        """The memory is lost: the box ends, since it never runs without it, and starts with what it has written. Nobody is asked."""
        node, box = self.move.destination, self.rack.box
        all_brought(self.lab, self.move)
        until("the box has ended", lambda: not lines(self.lab.group / node / "drover" / box.name / "cgroup.procs"))
        (_, (out, err), status), = recover(self.lab, [node])
        assert status == 0, err
        assert [settled["what"] for settled in json.loads(out)] == [f"box {box.name} runs here since its move from {self.move.source}"]

    def another_client(self):
        """Of the box that was started from its disk."""
        hear_of_a_new_start(self.rack.box, self.rack.client)
        until("the client has ended", lambda: self.rack.client.error)
        self.rack.client = memory_or_disk(self.rack.box, self.rack.client, self.rack.client.value)

    def check(self):
        redis = self.rack.client.other()
        for number in range(self.COPIES):
            assert redis("GET", f"copy:{number}") == filling(0).encode(), number
            redis("UNLINK", f"copy:{number}")


@pytest.mark.parametrize("mode, how", each(LAZY, ("down", "drop"), quick=lambda mode, how: (mode == "hybrid") == (how == "drop")))
def test_link_is_cut_while_memory_follows(lab, rack, tmp_path, mode, how):
    """The box waits for what it lacks, and its clients for the box. It comes over another connection, which the new node makes."""
    following = Following(lab, rack, tmp_path, mode)
    move = following.move
    lab.link(move.destination, how)
    time.sleep(8)
    assert following.incomplete()
    lab.link(move.destination, "up")
    assert move.go_on() == 4, move.err
    assert "the connection for its memory broke" in json.loads(move.err.splitlines()[-1])["error"]
    all_brought(lab, move)
    settle(lab, move, "at once")
    following.check()
    rack.check(move.destination)


@pytest.mark.parametrize("mode", LAZY)
def test_bringer_is_killed_behind_a_cut_link(lab, rack, tmp_path, mode):
    following = Following(lab, rack, tmp_path, mode)
    move = following.move
    lab.link(move.destination, "down")
    move.kill("bringer")
    following.started_from_disk()
    lab.link(move.destination, "up")
    assert move.go_on() == 4, move.err
    settle(lab, move, "source first")
    following.another_client()
    following.check()
    rack.check(move.destination)


@pytest.mark.parametrize("mode, how", each(LAZY, ("down", "drop"), quick=lambda mode, how: (mode, how) == ("hybrid", "drop")))
def test_link_stays_cut_while_memory_follows(lab, rack, tmp_path, mode, how):
    """15 s of silence and a minute of asking, and who brings the memory gives up."""
    following = Following(lab, rack, tmp_path, mode)
    move = following.move
    start = time.monotonic()
    lab.link(move.destination, how)
    try:
        following.started_from_disk()
        assert 60 < time.monotonic() - start < 100
        assert move.go_on() == 4, move.err
    finally:
        lab.link(move.destination, "up")
    settle(lab, move, "source first")
    following.another_client()
    following.check()
    rack.check(move.destination)


@pytest.mark.parametrize("mode", each(LAZY, quick=lambda mode: mode == "postcopy"))
def test_source_is_killed_while_memory_follows(lab, rack, tmp_path, mode):
    """The frozen copy needs nobody who lives: what the box lacks comes over a connection that its node makes."""
    following = Following(lab, rack, tmp_path, mode)
    move = following.move
    move.kill("source")
    all_brought(lab, move)
    settle(lab, move, "at once")
    following.check()
    rack.check(move.destination)


# Memory and disks

@pytest.mark.parametrize("mode", ["precopy", *LAZY])
def test_destination_has_no_memory_left(lab, rack, tmp_path, mode):
    """The preflight saw enough of it; when CRIU restores the box there is none: it needs 88 MB of addresses. (drover-node itself has
    what it needs: libnftables calls exit(2) where malloc fails.)"""
    criu = tmp_path / "criu"
    criu.write_text(f'#!/bin/sh\nulimit -v 80000\nexec {shutil.which("criu")} "$@"\n')
    rsh = tmp_path / "rsh"
    rsh.write_text(f'#!/bin/sh\nnode=$1; shift\nexec ssh -i /etc/ssh/key "$node" "PATH={tmp_path}:\\$PATH exec $*"\n')
    for program in (criu, rsh):
        program.chmod(0o755)
    source, other = rack.box.node(), rack.box.other()
    result = rack.box.migrate("--rsh", str(rsh), "--mode", mode, "--force", check=False)
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


@pytest.mark.parametrize("point, mode", each(("source.rounds", "source.prepared", "source.given"), MODES,
                                             quick=lambda point, mode: mode not in LAZY or point == "source.given"))
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


MADE = ("destination.prepared", "source.given", "destination.mine", "destination.running")


@pytest.mark.parametrize("point, mode", each(MADE, MODES, quick=lambda point, mode: (point == "source.given") == (mode != "stop")))
def test_destination_makes_no_file_when_all_is_there(lab, rack, small_disk, tmp_path, point, mode):
    """Who takes the box over needs no room. (The box itself does: so no file can be made there, and what there is can grow.)"""
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    used = int(lab.exec(move.destination, "df", "--output=iused", DROVER).stdout.split()[1])
    lab.exec(move.destination, "mount", "-o", f"remount,nr_inodes={used}", DROVER)
    assert lab.exec(move.destination, "touch", f"{DROVER}/one-more", check=False).returncode == 1
    try:
        assert move.go_on() == 0, move.err
    finally:
        lab.exec(move.destination, "mount", "-o", f"remount,nr_inodes={used + 10000}", DROVER)
    settle(lab, move, "at once")
    assert rack.box.states() == {move.destination: "running"}
    rack.client.check()
    rack.box.migrate()  # that disk goes
    rack.client.check()


def test_box_that_runs_cannot_be_recorded(lab, rack, tmp_path):
    """Who was to take it over was killed half-way, and who brings its memory can't write that it is whole. It goes on trying:
    without it the box would lose its memory."""
    move = Halted(rack.box, "destination.running", tmp_path, "--mode", "postcopy", "--force")
    journal = f"{DROVER}/arriving/{rack.box.name}/move.journal"
    lab.exec(move.destination, "chattr", "+i", journal)
    move.kill("destination")
    time.sleep(3)
    assert runs(lab, rack.box) == [move.destination]
    rack.client.check()
    lab.exec(move.destination, "chattr", "-i", journal)
    assert move.go_on() in (0, 4), move.err
    assert "runs with all its memory, and this is tried again" in move.err
    settle(lab, move, "at once")
    rack.check(move.destination)


def test_box_ends_while_it_is_frozen(lab, rack, tmp_path):
    """As when a CRIU that is killed takes it along. Nobody is told that it goes on."""
    move = Halted(rack.box, "source.frozen", tmp_path, "--force")
    for pid in lines(lab.group / move.source / "drover" / rack.box.name / "cgroup.procs"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    assert move.go_on() == 4, move.err
    assert json.loads(move.out)["outcome"] == "failed"
    assert json.loads(move.err.splitlines()[-1])["hint"] == \
        f"it has ended meanwhile: `drover-node box start {rack.box.name}` starts it anew"
    for _, (out, err), status in recover(lab, [move.source, move.destination]):
        assert (status, out.split()) == (0, ["[]"]), err
    lab.exec(move.source, "drover-node", "box", "start", rack.box.name)
    rack.client = memory_or_disk(rack.box, rack.client, rack.client.value)
    rack.check(move.source)


@pytest.mark.parametrize("mode", ["stop", "precopy"])
def test_what_cannot_be_undone_is_told(lab, rack, tmp_path, mode):
    move = Halted(rack.box, "source.frozen", tmp_path, "--mode", mode, "--force")
    journal = f"{DROVER}/boxes/{rack.box.name}/move.journal"
    lab.exec(move.source, "chattr", "+i", journal)
    try:
        os.kill(move.pids["source"], signal.SIGINT)
        assert move.go_on() == 4, move.err
    finally:
        lab.exec(move.source, "chattr", "-i", journal)
    assert json.loads(move.out)["outcome"] == "failed"
    assert any("cannot undo" in line for line in move.err.splitlines()), move.err
    rack.client.check()  # the box goes on all the same
    settle(lab, move, "source first")
    rack.check(move.source)


def test_commands_where_the_box_was_given_away(lab, rack, tmp_path):
    move = Halted(rack.box, "source.given", tmp_path)
    move.kill("source")
    name = rack.box.name
    for words in (["migrate", name, "--to", move.destination], ["start", name], ["destroy", "--force", name],
                  ["checkpoint", name, "/tmp/given"]):
        done = lab.exec(move.source, "drover-node", "box", *words, check=False)
        assert done.returncode == 1, (words, done.stderr)
        assert f"error: box {name} was given to {move.destination}: this node must not touch it" in done.stderr, words
    move.go_on()
    settle(lab, move, "source first")
    rack.check(move.destination)


# CRIU

@pytest.mark.parametrize("mode", MODES)
def test_criu_is_killed_while_it_dumps(lab, rack, tmp_path, mode):
    """At its post-dump notification: it has locked the box's network, and has its connections in repair mode. (Earlier it has
    code of its own in the box, and may take it along: docs/decisions/0005.)"""
    move, criu, go_on = criu_has_dumped(lab, rack, tmp_path, mode)
    os.kill(criu, signal.SIGKILL)
    until("CRIU has ended", lambda: not criu_on(lab, move.source))
    assert "frozen 1" in lines(lab.group / move.source / "drover" / rack.box.name / "cgroup.events")
    go_on()
    assert move.go_on() == 3, move.err
    assert "CRIU could not freeze the box into images" in json.loads(move.err.splitlines()[-1])["error"]
    rack.check(move.source)
    rack.box.migrate()  # as if nothing had happened
    rack.check(move.destination)


@pytest.mark.parametrize("delay_ms, mode", each((0, 20, 40, 60, 80, 100, 120, 160), MODES,
                                                quick=lambda delay_ms, mode: delay_ms in ((60,) if mode in LAZY else (0, 60))))
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


@pytest.mark.parametrize("point, mode", each(
    ("source.frozen", "destination.prepared", "source.prepared", "source.given", "destination.running", "destination.named"), MODES,
    quick=lambda point, mode: point == "source.given" or (mode not in LAZY and point in ("source.prepared", "destination.running"))))
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


@pytest.mark.parametrize("point, side, mode", each(
    POINTS, ("source", "destination"), MODES,
    quick=lambda point, side, mode: (point, side) == ("source.given", "destination") or (
        mode == "stop" and (point, side) in (("destination.prepared", "destination"), ("source.given", "source")))))
def test_power_cut(lab, alone, tmp_path, point, side, mode):
    """Processes and frozen copies are gone, journals stay. With memory that was still to follow the box starts from its disk."""
    move = Halted(alone, point, tmp_path, "--mode", mode, "--force")
    node = move.source if side == "source" else move.destination
    lab.off(node)
    lab.on(node)
    if side == "source" and POINTS.index(point) < POINTS.index("destination.prepared"):
        move.kill("destination")  # it would wait for some minutes more: a cut cable looks the same
    move.go_on()
    assert len(runs(lab, alone)) <= 1
    if point in GIVEN:
        all_brought(lab, move)
    settle(lab, move, ORDERS[POINTS.index(point) % 2])
    all_brought(lab, move)
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


@pytest.mark.parametrize("mode", each(LAZY, quick=lambda mode: mode == "hybrid"))
def test_source_loses_power_while_memory_follows(lab, rack, tmp_path, mode):
    """When it is back it says that the memory is gone, and nobody goes on asking."""
    following = Following(lab, rack, tmp_path, mode)
    move = following.move
    start = time.monotonic()
    lab.off(move.source)
    lab.on(move.source)
    following.started_from_disk()
    assert time.monotonic() - start < 50
    settle(lab, move, "source first")
    following.another_client()
    following.check()
    rack.check(move.destination)


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
    until("the destination has it", lambda: box.states().get("node2") == "running", timeout=60, pause=0.1)
    served(lab, "node2")
    lab.exec("node2", "drover-node", "box", "destroy", "--force", box.name)
    assert box.states() == {"node1": "given"}
    (_, (out, err), status), = recover(lab, ["node1"])
    assert (status, json.loads(out)[0]["settled"]) == (0, True), err
    assert box.states() == {}
    until("nothing is left", lambda: not lab.inventory() - before)
