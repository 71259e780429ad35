"""The same as test_move.py where the memory takes a connection of its own: all modes but stop. Who kills the process that brings
it costs the box its memory, as a power cut would, and nothing that was acknowledged."""

import itertools

import pytest
from conftest import command_line, until
from moves import GIVEN, ORDERS, POINTS, Counter, Halted, increments_on_disk, members, settle
from rack import rack, shared  # noqa: F401: fixtures

MODES = ["postcopy", "precopy", "hybrid"]
VICTIMS = ["source", "destination", "transport", "bringer"]
# The bringer of the memory is there from before the first round on.
BRINGER_AT = [*POINTS[POINTS.index("source.rounds"):], "destination.whole"]


def cases():
    for number, (point, victim) in enumerate(itertools.product([*POINTS, "destination.whole"], VICTIMS)):
        if victim == "bringer" and point not in BRINGER_AT:
            continue
        for turn, (order, mode) in enumerate(itertools.product(ORDERS, MODES)):
            # Each point with each victim; orders and modes take turns.
            quick = (number * 4 + number // 9) % 9 == turn
            yield pytest.param(point, victim, order, mode, marks=() if quick else pytest.mark.exhaustive,
                               id=f"{point}-{victim}-{order.replace(' ', '-')}-{mode}")


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("point, victim, order, mode", cases())
def test_killed(lab, rack, tmp_path, point, victim, order, mode):
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    acknowledged = rack.client.value
    move.kill(victim)
    move.go_on()
    given = point in (*GIVEN, "destination.whole")
    if given:  # or nobody has to wait for it: it is dropped
        until("nothing brings memory any more", lambda: not guards(lab, move.destination), timeout=100)
    settle(lab, move, order)
    until("nothing brings memory any more", lambda: not guards(lab, move.destination))
    owner = move.destination if given else move.source
    assert rack.box.node() == owner
    if given and victim == "bringer":
        check_memory_or_disk(rack, owner, acknowledged)
    else:
        rack.check(owner)


def guards(lab, node):
    return [pid for pid in members(lab, node) if command_line(pid).startswith("drover-node guard")]


def check_memory_or_disk(rack, owner, acknowledged):
    """All memory had come before the bringer was killed, or the box was started anew: then its connections are gone,
    and all writes that were acknowledged are there."""
    rack.box.answers(6379)
    until("the client's connection goes on or ends", lambda: rack.client.error or rack.client.value > acknowledged + 3,
          timeout=60)
    if not rack.client.error:
        rack.check(owner)
        return
    assert isinstance(rack.client.error, ConnectionError), rack.client.error
    acknowledged = max(acknowledged, rack.client.value)
    assert increments_on_disk(rack.box) >= acknowledged
    rack.client = Counter(rack.lab, rack.box.ip4)
    assert rack.client.value > acknowledged
    rack.check(owner)
