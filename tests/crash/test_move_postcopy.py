"""The same as test_move.py where the memory takes a connection of its own: all modes but stop. Who kills the process that brings
it costs the box its memory, as a power cut would, and nothing that was acknowledged."""

import itertools

import pytest
from conftest import command_line, until
from moves import BRINGER_AT, BRINGERS, GIVEN, ORDERS, POINTS, Halted, check_status, members, memory_or_disk, settle
from rack import rack, shared  # noqa: F401: fixtures

MODES = ["postcopy", "precopy", "hybrid"]
VICTIMS = ["source", "destination", "transport", "bringer"]


def cases():
    for number, (point, victim) in enumerate(itertools.product([*POINTS, *BRINGERS], VICTIMS)):
        if victim == "bringer" and point not in BRINGER_AT:
            continue
        for turn, (order, mode) in enumerate(itertools.product(ORDERS, MODES)):
            # Each point with each victim; orders and modes take turns.
            quick = (number * 4 + number // 9) % 9 == turn or (point, victim, order, mode) == (
                "source.running", "destination", "at once", "hybrid")
            yield pytest.param(point, victim, order, mode, marks=() if quick else pytest.mark.exhaustive,
                               id=f"{point}-{victim}-{order.replace(' ', '-')}-{mode}")


@pytest.mark.leaves
@pytest.mark.limit(240)
@pytest.mark.parametrize("point, victim, order, mode", cases())
def test_killed(lab, rack, tmp_path, point, victim, order, mode):
    move = Halted(rack.box, point, tmp_path, "--mode", mode, "--force")
    acknowledged = rack.client.value
    move.kill(victim)
    status = move.go_on()
    given = point in (*GIVEN, *BRINGERS)
    if given:  # or nobody has to wait for it: it is dropped
        until("nothing brings memory any more", lambda: not guards(lab, move.destination), timeout=100)
    settle(lab, move, order)
    until("nothing brings memory any more", lambda: not guards(lab, move.destination))
    owner = move.destination if given else move.source
    assert rack.box.node() == owner
    if given and victim == "bringer" and point != "destination.released":
        rack.client = memory_or_disk(rack.box, rack.client, acknowledged)
    rack.check(owner)
    check_status(move, victim, status)


def guards(lab, node):
    return [pid for pid in members(lab, node) if command_line(pid).startswith("drover-node guard")]
