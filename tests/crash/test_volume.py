"""A move of a box whose private layer is an image is cut off, or the other disk is full. Afterwards one node has the box, with
its image attached once, and the other has nothing of it."""

import signal

import pytest
from conftest import until
from moves import DROVER, GIVEN, Box, Halted, settle
from rack import Rack

pytestmark = [pytest.mark.leaves, pytest.mark.limit(240)]


@pytest.fixture(scope="module")
def shared(lab, templates):
    rack = Rack(lab, "--volume", "image:256M")
    yield rack
    rack.end()


@pytest.fixture
def rack(shared):
    shared.ready()
    yield shared
    if not shared.well():  # the test has failed; the next one begins anew
        shared.wipe()


def check(rack, node):
    rack.check(node)
    assert rack.box.show()["volume"] == "image:256M"
    loops = [thing for thing in rack.lab.inventory() - rack.empty if thing.startswith("loop device")]
    assert len(loops) == 1 and loops[0].endswith(f"{DROVER}/boxes/crash/volume/image"), loops


@pytest.mark.parametrize("victim", ["source", "destination"])
@pytest.mark.parametrize("point", ["source.frozen", "source.dumped", "destination.restoring", "destination.prepared",
                                   "source.given", "destination.named"])
def test_killed(lab, rack, tmp_path, point, victim):
    move = Halted(rack.box, point, tmp_path)
    move.kill(victim)
    status = move.go_on()
    settle(lab, move, "source first")
    check(rack, move.destination if point in GIVEN else move.source)
    if victim == "source":
        assert status == -signal.SIGKILL


def test_destination_disk_is_full(lab, templates, tmp_path):
    """It had room for what the image takes, and is full when the image comes."""
    before = lab.inventory()
    lab.exec("node2", "mount", "-t", "tmpfs", "-o", "size=1g", "small", DROVER)
    box = Box(lab, "full", "shell", 31)
    try:
        lab.exec("node2", "cp", "-a", *(templates / part for part in ("layers", "templates", "keys")), DROVER)
        box.start("node1", "--volume", "image:256M")
        box.exec("sh", "-c", "dd if=/dev/urandom of=/srv/big bs=1M count=32; sync")
        move = Halted(box, "destination.arriving", tmp_path)
        lab.exec("node2", "sh", "-c", f"dd if=/dev/zero of={DROVER}/fill bs=64k status=none || :")
        status = move.go_on()
        assert status == 1 and "node2: cannot write /image: the disk of this node is full" in move.err, move.err
        assert box.states() == {"node1": "running"}
        lab.node("node2").path(f"{DROVER}/fill").unlink()
        box.migrate()
        box.migrate()
    finally:
        box.destroy()
        lab.exec("node2", "umount", DROVER)
    until("nothing is left", lambda: not lab.inventory() - before)
