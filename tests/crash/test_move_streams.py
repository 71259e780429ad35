"""A box's memory goes over several connections, and one that is not the first is lost, or the link is: before the commit point the
box goes on at one of the nodes as ever, and a connection alone costs nothing but time."""

import os
import signal
import time

import pytest
from conftest import command_line, lines, until
from moves import Halted, check_filled, fill, members, parent, recover, settle, started, state
from rack import rack, shared  # noqa: F401: fixtures

MEGABYTES = 24
STREAMS = ("--streams", "2", "--force")
LOST = "one of the connections for the box's memory"


@pytest.fixture
def filled(rack):
    """The rack's box with memory that takes a while."""
    client = rack.client.other()
    if client("GET", "filled:0") is None:
        fill(client, MEGABYTES)
    return rack


def second(lab, source, command):
    """What carries the second connection for the memory; the first one of all is the move's."""
    carriers = sorted((pid for pid in members(lab, source)
                       if command_line(pid).startswith("ssh ") and parent(pid) == command), key=started)
    return carriers[2] if len(carriers) > 2 else None


def carried(pid):
    """Bytes that a process has read and written, pipes and sockets included."""
    return sum(int(line.split()[1]) for line in lines(f"/proc/{pid}/io") if line.startswith(("rchar", "wchar")))


class InARound:
    """A move in a round of memory, to which both connections contribute."""

    once = None  # as in moves.Halted

    def __init__(self, rack, mode):
        self.lab, self.box = rack.lab, rack.box
        self.source, self.destination = rack.box.node(), rack.box.other()
        self.lab.link(self.destination, "slow", "20mbit")
        self.child = self.lab.popen(self.source, "drover-node", "--json", "box", "migrate", self.box.name,
                                    "--to", self.destination, "--mode", mode, *STREAMS)
        self.second = until("there are two connections for the memory", self._second, timeout=60)
        until("the second one carries memory", lambda: self._alive() and carried(self.second) > 1 << 20, timeout=60)

    def _alive(self):
        assert self.child.poll() is None, self.child.communicate()
        return True

    def _second(self):
        return self._alive() and second(self.lab, self.source, self.child.pid)

    def end(self, timeout=110):
        self.out, self.err = self.child.communicate(timeout=timeout)
        return self.child.returncode


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("mode", ["precopy", "hybrid"])
def test_second_connection_is_killed_in_a_round(lab, filled, mode):
    move = InARound(filled, mode)
    os.kill(move.second, signal.SIGKILL)
    lab.link(move.destination, "up")
    assert move.end() == 0, move.err
    assert move.err.count(LOST) == 1, move.err
    check_filled(filled.client.other(), MEGABYTES)
    filled.check(move.destination)


@pytest.mark.leaves
@pytest.mark.limit(240)
def test_link_is_cut_in_a_round(lab, filled):
    move = InARound(filled, "precopy")
    lab.link(move.destination, "drop")
    status = move.end()
    lab.link(move.destination, "up")
    assert status == 1, move.err
    until("nothing is received any more", lambda: not any(
        "drover-node receive" in command_line(pid) for pid in members(lab, move.destination)), timeout=100)
    settle(lab, move, "destination first")
    check_filled(filled.client.other(), MEGABYTES)
    filled.check(move.source)


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("mode", ["postcopy", "hybrid"])
def test_second_connection_is_killed_when_the_box_was_given(lab, filled, tmp_path, mode):
    move = Halted(filled.box, "source.given", tmp_path, "--mode", mode, *STREAMS)
    os.kill(second(lab, move.source, move.child.pid), signal.SIGKILL)
    assert move.go_on() == 0, move.err
    check_filled(filled.client.other(), MEGABYTES)
    filled.check(move.destination)


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("how", ["killed", "silent"])
def test_second_connection_is_lost_while_memory_follows(lab, filled, tmp_path, how):
    move = Halted(filled.box, "source.given", tmp_path, "--mode", "postcopy", *STREAMS)
    lane = second(lab, move.source, move.child.pid)
    lab.link(move.destination, "slow", "20mbit")
    before = carried(lane)
    move.resume()
    until("it carries memory", lambda: carried(lane) > before + (1 << 20), timeout=60)
    os.kill(lane, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
    lab.link(move.destination, "up")
    assert move.go_on() == 0, move.err
    check_filled(filled.client.other(), MEGABYTES)
    filled.check(move.destination)


@pytest.mark.leaves
@pytest.mark.limit(300)
def test_link_is_cut_while_memory_follows(lab, filled, tmp_path):
    move = Halted(filled.box, "source.given", tmp_path, "--mode", "postcopy", *STREAMS)
    lane = second(lab, move.source, move.child.pid)
    lab.link(move.destination, "slow", "20mbit")
    before = carried(lane)
    move.resume()
    until("it carries memory", lambda: carried(lane) > before + (1 << 20), timeout=60)
    lab.link(move.destination, "drop")
    time.sleep(12)
    lab.link(move.destination, "up")
    move.child.communicate(timeout=110)
    until("all memory has arrived", lambda: filled.box.states().get(move.destination) == "running", timeout=100, pause=0.1)
    until("the destination's side ends", lambda: state(move.pids["destination"]) in (None, "Z"), timeout=110)
    # The source may still be at it, over the connection that the destination has made: then its box is busy.
    until("both sides are settled", timeout=60,
          condition=lambda: all(status == 0 for _, _, status in recover(lab, [move.source, move.destination])))
    check_filled(filled.client.other(), MEGABYTES)
    filled.check(move.destination)
