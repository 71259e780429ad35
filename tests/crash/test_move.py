"""A move is cut off at every step, on every side. Afterwards one node has the box, running, with its memory and
all that its clients were told is done; the other node has nothing of it."""

import itertools
import json
import os
import random
import signal
import time

import pytest
from conftest import command_line, lines, until
from moves import (DROVER, GIVEN, ORDERS, POINTS, Counter, Halted, check_status, increments_on_disk, members, nothing_remains,
                   point_is_frozen, recover, remains, settle, state)
from rack import rack, shared, small_disk  # noqa: F401: fixtures

VICTIMS = ["source", "destination", "transport"]


def cases():
    for number, (point, victim, order) in enumerate(itertools.product(POINTS, VICTIMS, ORDERS)):
        # Each point with each victim in any case, and the orders take turns.
        quick = (number // 3 + number // 9) % 3 == number % 3
        yield pytest.param(point, victim, order, marks=() if quick else pytest.mark.exhaustive,
                           id=f"{point}-{victim}-{order.replace(' ', '-')}")


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("point, victim, order", cases())
def test_killed(lab, rack, tmp_path, point, victim, order):
    move = Halted(rack.box, point, tmp_path)
    move.kill(victim)
    status = move.go_on()
    settle(lab, move, order)
    rack.check(move.destination if point in GIVEN else move.source)
    check_status(move, victim, status)


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("order", ORDERS)
def test_killed_while_the_network_is_made(lab, rack, tmp_path, victim, order):
    """In the middle of CRIU's restore: the box's cable is there, and one end of it in a namespace that goes."""
    move = Halted(rack.box, "destination.network", tmp_path)
    move.kill(victim)
    status = move.go_on()
    settle(lab, move, order)
    rack.check(move.source)
    assert status == (-signal.SIGKILL if victim == "source" else 3), move.err


BEFORE_GIVEN = [point for point in POINTS if point.startswith("source.") and point not in GIVEN]


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("mode", ["stop", "precopy", pytest.param("postcopy", marks=pytest.mark.exhaustive),
                                  pytest.param("hybrid", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("point", BEFORE_GIVEN)
def test_interrupted(lab, rack, tmp_path, point, mode):
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    os.kill(move.child.pid, signal.SIGINT)
    status = move.go_on()
    assert status == (3 if point_is_frozen(point) else 130), move.err
    report = json.loads(move.out)
    assert (report["outcome"], report["epoch"]) == ("rolled_back", rack.box.show()["epoch"])
    rack.check(move.source)  # without recover


@pytest.mark.leaves
@pytest.mark.limit(240)
def test_interrupted_and_repeated_at_once(lab, rack, tmp_path):
    """The other node still takes away what came of the first one."""
    for turn in range(3):
        (tmp_path / str(turn)).mkdir()
        move = Halted(rack.box, "destination.round", tmp_path / str(turn))
        os.kill(move.child.pid, signal.SIGINT)
        move.child.wait(60)
        move.resume()
        lab.exec(move.source, "drover-node", "box", "migrate", rack.box.name, "--to", move.destination,
                 "--max-downtime", "60000")
        rack.check(move.destination)


@pytest.mark.leaves
@pytest.mark.limit(240)
def test_interrupted_after_the_commit_point(lab, rack, tmp_path):
    move = Halted(rack.box, "source.given", tmp_path)
    os.kill(move.child.pid, signal.SIGINT)
    assert move.go_on() == 0
    rack.check(move.destination)


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("delay_ms", [0, 50, 150])
def test_ctrl_c_while_criu_dumps(lab, rack, delay_ms):
    """A terminal sends its SIGINT to every process of the group; CRIU must not die of it with the box half undone."""
    source, other = rack.box.node(), rack.box.other()
    child = lab.popen(source, "drover-node", "--json", "box", "migrate", rack.box.name, "--to", other, "--mode", "stop",
                      start_new_session=True)
    journal = lab.node(source).path(f"{DROVER}/boxes/{rack.box.name}/move.journal")
    until("CRIU dumps", lambda: journal.exists() and criu_works(lab, source), timeout=60)
    time.sleep(delay_ms / 1000)
    os.killpg(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=100)
    assert child.returncode in (0, 3), err
    settled = other if child.returncode == 0 else source
    until("the other side has ended", lambda: not receivers(lab, other), timeout=100)
    rack.check(settled)


def criu_works(lab, node):
    return any(lines(f"/proc/{pid}/comm") == ["criu"] for pid in members(lab, node))


def receivers(lab, node):
    return [pid for pid in members(lab, node) if command_line(pid).startswith("drover-node receive")]


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=() if seed < 8 else pytest.mark.exhaustive) for seed in range(24)])
def test_killed_at_any_time(lab, rack, tmp_path, seed):
    """Between the points as well."""
    dice = random.Random(seed)
    victims = dice.choice([["source"], ["destination"], ["transport"], ["source", "destination"]])
    move = Halted(rack.box, "source.leaving", tmp_path)
    move.resume()
    time.sleep(dice.uniform(0, 2.5))
    for victim in victims:
        move.kill(victim)
    status = move.go_on()
    settle(lab, move, dice.choice(ORDERS))
    owner = rack.box.node()
    if status == 0:
        assert owner == move.destination
    elif status in (1, 3):
        assert owner == move.source
    rack.check(owner)


@pytest.mark.leaves
@pytest.mark.limit(300)
@pytest.mark.parametrize("mode", ["stop", "precopy"])
@pytest.mark.parametrize("point, outcome", [
    ("source.rounds", 3), ("source.prepared", None), ("source.given", None), ("destination.prepared", 3)])
def test_black_hole(lab, rack, tmp_path, point, outcome, mode):
    """The link swallows everything, with no word to either side; later it works again."""
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    lab.link(move.destination, "drop")
    try:
        move.resume()
        if point in GIVEN or outcome is None:
            time.sleep(8)  # long enough for the transport to give up, and for each side to ask the other
        else:
            until("the source gives up", lambda: move.child.poll() is not None, timeout=100)
            assert rack.box.states()[move.source] == "running"
    finally:
        lab.link(move.destination, "up")
    status = move.go_on()
    settle(lab, move, "at once")
    owner = rack.box.node()
    if outcome is not None:
        assert (status, owner) == (outcome, move.source)
    else:
        assert owner == move.destination
    rack.check(owner)


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("full, room, expected", [(DROVER, 0, 1), ("/run", 128, 3)])
def test_destination_has_no_space_left(lab, rack, small_disk, tmp_path, full, room, expected):
    """Another one has filled the disk since the preflight."""
    other = rack.box.other()
    move = Halted(rack.box, "destination.arriving", tmp_path)
    used = int(lab.exec(other, "df", "--output=used", "-k", full).stdout.split()[1])
    lab.exec(other, "mount", "-o", f"remount,size={used + room}k", full)
    try:
        status = move.go_on()
        settle(lab, move, "destination first")
        left = {thing for thing in remains(lab, rack.box, other, rack.empty) if not thing.endswith(f"mount {DROVER} tmpfs")}
    finally:
        lab.exec(other, "mount", "-o", "remount,size=50%", full)
    assert (status, json.loads(move.out)["outcome"]) == (expected, "rolled_back"), move.err
    error = json.loads(move.err.splitlines()[-1])["error"]
    assert error.startswith(f"{other}: cannot write /")
    assert error.endswith(": the disk of this node is full")
    assert rack.box.node() == move.source
    assert not left
    rack.client.check()


# The power is cut


def power_cases():
    """A node loses its power at a point: its processes, network, mounts and /run are gone, its disk is not."""
    for point in ("source.leaving", "source.rounds", "source.frozen", "source.dumped", "destination.prepared",
                  "source.prepared", "source.given", "destination.mine", "destination.running", "source.running"):
        yield point, "source"
    for point in ("destination.arriving", "destination.round", "source.dumped", "destination.restoring",
                  "destination.prepared", "source.prepared", "source.given", "destination.mine", "destination.running",
                  "destination.named", "source.running"):
        yield point, "destination"
    for point in ("source.dumped", "destination.prepared", "source.given", "destination.mine", "source.running"):
        yield point, "both"


QUICK = [("source.frozen", "source"), ("destination.prepared", "source"), ("source.given", "source"),
         ("source.given", "destination"), ("destination.mine", "destination"), ("destination.prepared", "destination"),
         ("source.given", "both"), ("destination.prepared", "both")]


@pytest.mark.leaves
@pytest.mark.limit(300)
@pytest.mark.parametrize("point, victim", [
    pytest.param(*case, marks=() if case in QUICK else pytest.mark.exhaustive, id="-".join(case)) for case in power_cases()])
def test_power_cut(lab, rack, tmp_path, point, victim):
    """Afterwards one node has the box, which runs there or can be started, with all writes that were acknowledged."""
    move = Halted(rack.box, point, tmp_path)
    dark = {"source": [move.source], "destination": [move.destination], "both": [move.source, move.destination]}[victim]
    acknowledged = rack.client.value
    for node in dark:
        lab.off(node)
    if move.source in dark:
        move.child.wait(20)
        # The other side goes on into nothing, or asks who is not there.
        if move.destination not in dark:
            move.resume()
            time.sleep(3)
    else:
        move.resume()
        move.child.wait(110)
    for node in dark:
        lab.on(node)
    until("the destination's side ends", lambda: state(move.pids["destination"]) in (None, "Z"), timeout=110)
    settle(lab, move, "source first" if victim == "destination" else "destination first")

    owners = rack.box.states()
    assert len(owners) == 1, owners
    [(owner, what)] = owners.items()
    if point in GIVEN:
        assert owner == move.destination
    elif victim != "destination" or point != "source.prepared":  # there the source may not know yet, and give it
        assert owner == move.source
    if what == "stopped":
        # A node that took it over starts it by itself; one where the move had ended does not.
        assert owner == move.source or point == "source.running"
        lab.exec(owner, "drover-node", "box", "start", rack.box.name)
    else:
        assert what == "running"
    other = move.source if owner == move.destination else move.destination
    nothing_remains(lab, rack.box, other, rack.empty)
    if owner == move.source and victim == "destination":
        rack.check(owner)  # nobody noticed
        return
    # Its memory, and so the connection, died with a node; what was acknowledged had been on disk.
    rack.box.answers(6379)
    rack.client.ending = True
    rack.client.join(100)
    acknowledged = max(acknowledged, rack.client.value)
    assert increments_on_disk(rack.box) >= acknowledged
    rack.client = Counter(lab, rack.box.ip4)
    assert rack.client.value > acknowledged
    rack.client.check()
