"""What is sent to a box while it is frozen reaches it when it runs again, wherever that is."""

import base64
import os
import signal
import socket

import pytest
from boxes import inside_program
from conftest import until
from moves import Box, Halted

PORT = 4000


class Listener:
    """A program in a box that writes down each datagram, and a client that sends them. Nobody sends a datagram again."""

    def __init__(self, box, program):
        self.box = box
        self.socket = box.lab.socket("client", kind=socket.SOCK_DGRAM)
        box.exec("sh", "-c", "base64 -d >/inside && chmod 755 /inside", input=base64.b64encode(program).decode())
        box.exec("sh", "-c", f"setsid /inside listen {PORT} </dev/null >/heard 2>&1 &")
        self.says = []

    def say(self, text):
        self.says.append(text)
        self.socket.sendto(text.encode() + b"\n", (self.box.ip4, PORT))

    def heard(self):
        return (self.box.upper() / "heard").read_text().splitlines()

    def check(self):
        until("the box hears what is sent now", lambda: self.says[-1] in self.heard())
        assert self.heard() == self.says


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return inside_program(tmp_path_factory.mktemp("inside"))


@pytest.fixture
def listener(lab, templates, program):
    box = Box(lab, "listener", "shell", 40).start()
    try:
        listener = Listener(box, program)
        until("the box listens", lambda: f":{PORT:04X} " in box.exec("cat", "/proc/net/udp").stdout)
        listener.say("hello")
        listener.check()
        yield listener
    finally:
        lab.mend()
        box.destroy()


@pytest.mark.limit(120)
@pytest.mark.parametrize("mode", ["stop", "postcopy"])
def test_datagrams_follow_the_box(listener, tmp_path, mode):
    move = Halted(listener.box, "source.frozen", tmp_path, "--mode", mode)
    listener.say("frozen")
    listener.say("frozen still")
    assert move.go_on() == 0, move.err
    listener.say("moved")
    listener.check()


@pytest.mark.limit(120)
def test_datagrams_until_the_destination_has_it(listener, tmp_path):
    move = Halted(listener.box, "source.given", tmp_path)
    listener.say("given")
    assert move.go_on() == 0, move.err
    listener.say("moved")
    listener.check()


@pytest.mark.limit(120)
def test_datagrams_wait_for_a_box_that_stays(listener, tmp_path):
    move = Halted(listener.box, "source.prepared", tmp_path)
    listener.say("frozen")
    os.kill(move.child.pid, signal.SIGINT)
    assert move.go_on() == 3, move.err
    listener.say("stayed")
    listener.check()
    assert "fwd" not in listener.box.lab.exec(move.source, "nft", "list", "ruleset").stdout
