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
from moves import DROVER, Box, Counter, Halted, increments_on_disk, members, recover, remains

# In the order in which a move passes them.
POINTS = ["source.leaving", "destination.arriving", "destination.round", "source.rounds", "source.frozen",
          "source.dumped", "destination.restoring", "destination.prepared", "source.prepared",
          # here the source gives it away
          "source.given", "destination.mine", "destination.running", "destination.named", "source.running"]
GIVEN = POINTS[POINTS.index("source.given"):]
VICTIMS = ["source", "destination", "transport"]
ORDERS = ["source first", "destination first", "at once"]


def cases():
    for number, (point, victim, order) in enumerate(itertools.product(POINTS, VICTIMS, ORDERS)):
        # Each point with each victim in any case, and the orders take turns.
        quick = (number // 3 + number // 9) % 3 == number % 3
        yield pytest.param(point, victim, order, marks=() if quick else pytest.mark.slow,
                           id=f"{point}-{victim}-{order.replace(' ', '-')}")


class Rack:
    """A redis box with a client, used by one test after the other as long as all is well with it."""

    def __init__(self, lab):
        self.lab, self.box, self.client = lab, None, None
        self.empty = lab.inventory()

    def ready(self):
        if not self.box:
            self.box = Box(self.lab, "crash", "redis", 30).start().answers(6379)
            self.client = Counter(self.lab, self.box.ip4)
        self.client.check()
        return self.box

    def check(self, node):
        """The box runs on this node as if nothing had happened, and the other has nothing of it."""
        assert self.box.states() == {node: "running"}
        other = self.box.other()
        assert not remains(self.lab, self.box, other, self.empty)
        self.client.check()
        acknowledged = self.client.value
        assert increments_on_disk(self.box) >= acknowledged

    def well(self):
        return self.box and not self.client.error and list(self.box.states().values()) == ["running"] \
            and not remains(self.lab, self.box, self.box.other(), self.empty)

    def end(self):
        if self.box:
            acknowledged = self.client.finish()
            assert increments_on_disk(self.box) >= acknowledged
            self.box.destroy()
            left = self.lab.inventory() - self.empty
            self.wipe()
            assert not left

    def wipe(self):
        """Takes everything away by force."""
        if self.client:
            self.client.ending = True
        self.box = self.client = None
        self.lab.clean()


@pytest.fixture(scope="module")
def shared(lab, templates):
    rack = Rack(lab)
    yield rack
    rack.end()


@pytest.fixture
def rack(shared):
    shared.ready()
    yield shared
    if not shared.well():  # the test has failed; the next one begins anew
        shared.wipe()


def settle(lab, move, order):
    orders = {"source first": [move.source, move.destination], "destination first": [move.destination, move.source],
              "at once": [(move.source, move.destination)]}
    for node, (out, err), status in recover(lab, orders[order]):
        assert status in (0, 4), f"recover on {node} ended with {status}:\n{out}{err}"
    # Whatever the first one could not settle, the second one does; and then there is nothing left to do.
    for node, (out, err), status in recover(lab, [move.source, move.destination]):
        assert status == 0, f"recover on {node} ended with {status}:\n{out}{err}"
    for node, (out, err), status in recover(lab, [move.destination, move.source]):
        assert (status, out.split()) == (0, ["[]"]), f"recover on {node} found something again:\n{out}{err}"


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("point, victim, order", cases())
def test_killed(lab, rack, tmp_path, point, victim, order):
    move = Halted(rack.box, point, tmp_path)
    move.kill(victim)
    status = move.go_on()
    settle(lab, move, order)
    rack.check(move.destination if point in GIVEN else move.source)
    if victim == "source":
        assert status == -signal.SIGKILL
    elif point == "source.running":
        assert status == 0  # it had the other node's word already
    elif point in GIVEN:
        assert status in (0, 4), move.err
    else:
        assert status == (3 if point_is_frozen(point) else 1), move.err


def point_is_frozen(point):
    return POINTS.index(point) >= POINTS.index("source.frozen")


BEFORE_GIVEN = [point for point in POINTS if point.startswith("source.") and point not in GIVEN]


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("point", BEFORE_GIVEN)
def test_interrupted(lab, rack, tmp_path, point):
    move = Halted(rack.box, point, tmp_path)
    os.kill(move.child.pid, signal.SIGINT)
    status = move.go_on()
    assert status == (3 if point_is_frozen(point) else 130), move.err
    report = json.loads(move.out)
    assert (report["outcome"], report["epoch"]) == ("rolled_back", rack.box.show()["epoch"])
    rack.check(move.source)  # without recover


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
    child = lab.popen(source, "drover-node", "--json", "box", "migrate", rack.box.name, "--to", other,
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
@pytest.mark.parametrize("seed", [pytest.param(seed, marks=() if seed < 4 else pytest.mark.slow) for seed in range(24)])
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
@pytest.mark.parametrize("point, outcome", [
    ("source.rounds", 3), ("source.prepared", None), ("source.given", None), ("destination.prepared", 3)])
def test_black_hole(lab, rack, tmp_path, point, outcome):
    """The link swallows everything, with no word to either side; later it works again."""
    move = Halted(rack.box, point, tmp_path)
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


@pytest.fixture
def small_disk(lab, rack, templates):
    """The other node's /var/lib/drover is a small disk of its own, with the templates and room for this box."""
    other = rack.box.other()
    lab.exec(other, "mount", "-t", "tmpfs", "-o", "size=1g", "small", DROVER)
    try:
        lab.exec(other, "cp", "-a", *(templates / part for part in ("layers", "templates", "keys")), DROVER)
        used = int(lab.exec(other, "df", "--output=used", "-k", DROVER).stdout.split()[1])
        lab.exec(other, "mount", "-o", f"remount,size={used + (96 << 10)}k", DROVER)
        yield
    finally:
        lab.exec(other, "umount", DROVER)


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
