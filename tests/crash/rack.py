"""A redis box that is moved, and must survive it."""

import time

import pytest
from moves import DROVER, Box, Counter, increments_on_disk, remains


class Rack:
    """A redis box with a client, used by one test after the other as long as all is well with it."""

    def __init__(self, lab, *options):
        self.lab, self.options, self.box, self.client = lab, options, None, None
        self.empty = lab.inventory()

    def ready(self):
        if not self.box:
            self.box = Box(self.lab, "crash", "redis", 30).start("node1", *self.options).answers(6379)
            self.client = Counter(self.lab, self.box.ip4)
        self.client.check()
        return self.box

    def check(self, node):
        """The box runs on this node as if nothing had happened, and the other has nothing of it."""
        states = self.box.settled()
        assert states == {node: "running"}, states
        other = self.box.other()
        left = self.left_on(other)
        assert not left, f"on {other} there is still: {left}"
        self.client.check()
        acknowledged = self.client.value
        assert increments_on_disk(self.box) >= acknowledged

    def left_on(self, node):
        # An sshd whose client died behind a cut link hears of it some time later, and what served a move there may
        # still clear up.
        end = time.monotonic() + self.lab.settle_s
        while True:
            left = {thing for thing in remains(self.lab, self.box, node, self.empty) if "sshd-session" not in thing}
            if not any(": process " in thing for thing in left) or time.monotonic() > end:
                return left
            time.sleep(0.05)

    def well(self):
        return self.box and not self.client.error and list(self.box.states().values()) == ["running"] \
            and not self.left_on(self.box.other())

    def end(self):
        if self.box:
            acknowledged = self.client.finish()
            assert increments_on_disk(self.box) >= acknowledged
            self.box.destroy()
            left = {thing for thing in self.lab.inventory() - self.empty if "sshd-session" not in thing}
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
