"""A move is cut off at every step, on every side. Afterwards one node has the box, running, with its memory and
all that its clients were told is done; the other node has nothing of it."""

import itertools
import signal

import pytest
from moves import Box, Counter, Halted, increments_on_disk, recover, remains

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
