"""Programs that people run go on after a move: interpreters, cron, somebody who is logged in."""

import contextlib
import re
import subprocess
import threading
import time

import pytest
from conftest import ROOT, build_template, checked, lines, no_time_limit, until
from moves import DROVER, Box

RUNTIMES = {"java": 7101, "node": 7102, "go": 7103, "python": 7104}


@pytest.fixture
def make_box(lab, templates):
    made = []

    def make(name, template, number, files):
        box = Box(lab, name, template, number)
        made.append(box)
        lab.exec("node1", "drover-node", "box", "create", name, "--template", template,
                 "--ip", f"{box.ip4}/24", "--ip", f"{box.ip6}/64")
        upper = lab.node("node1").path(f"{DROVER}/boxes/{name}/private/upper")
        for path, content in files.items():
            at = upper / path
            at.parent.mkdir(parents=True, exist_ok=True)
            at.write_text(content)
        lab.exec("node1", "drover-node", "box", "start", name)
        return box

    yield make
    lab.mend()
    for box in made:
        box.destroy()


class Talk(threading.Thread):
    """Asks one of tests/templates/files/count.* all the time, over one connection, and checks every answer."""

    def __init__(self, lab, host, port):
        super().__init__(daemon=True)
        self.connection = lab.connect("client", host, port, timeout=60)
        self.answers = self.connection.makefile("rb")
        self.count = self.ticks = self.total = 0
        self.error, self.ending = None, False
        self.start()

    def run(self):
        try:
            while not self.ending:
                question = b"x" * (self.count % 50)
                self.connection.sendall(question + b"\n")
                count, ticks, total = map(int, self.answers.readline().split())
                assert (count, total) == (self.count + 1, self.total + len(question))
                assert ticks >= self.ticks
                self.count, self.ticks, self.total = count, ticks, total
                time.sleep(0.01)
        except BaseException as problem:  # told to the test by check()
            self.error = problem

    def check(self):
        count, ticks = self.count, self.ticks
        until("it answers, and its clock ticks", lambda: self.error or (self.count > count + 5 and self.ticks > ticks + 3),
              timeout=40)
        assert self.error is None, f"after {self.count} answers: {self.error!r}"

    def finish(self):
        self.ending = True
        self.join(60)
        self.answers.close()
        self.connection.close()


@pytest.fixture
def runtimes(lab, templates):
    """The template of tests/templates/runtimes.toml, on the nodes."""
    with no_time_limit():
        build_template("runtimes", ROOT / "tests/templates")
        for node in lab.nodes:
            checked(subprocess.run(["cp", "-a", "--update=none", templates / "layers", templates / "templates",
                                    lab.state / node], text=True, capture_output=True, timeout=300))


@pytest.mark.limit(300)
def test_interpreters(lab, runtimes, make_box):
    """Java, Node.js, Go and Python, each with threads and timers of its own; nothing in the box is told of the move.
    Node.js uses io_uring wherever there is some."""
    inittab = (ROOT / "templates/definitions/files/inittab").read_text()
    box = make_box("runtimes", "runtimes", 170, {"etc/inittab": inittab + """\
ja:2345:respawn:/usr/bin/java -cp /srv/count Count
no:2345:respawn:/usr/bin/node /srv/count/count.js
go:2345:respawn:/srv/count/count-go
py:2345:respawn:/usr/bin/python3 /srv/count/count.py
"""})
    for port in RUNTIMES.values():
        box.answers(port)
    talks = {name: Talk(lab, box.ip4, port) for name, port in RUNTIMES.items()}
    try:
        for talk in talks.values():
            talk.check()
        for _ in range(2):
            box.migrate()
            for talk in talks.values():
                talk.check()
    finally:
        for talk in talks.values():
            talk.finish()


@pytest.mark.limit(240)
def test_cron(make_box):
    """What is due after a move is done after the move."""
    box = make_box("cron", "debian-13", 171, {"etc/cron.d/often": "* * * * * root date >>/srv/minutes\n"})
    box.answers(22)
    box.migrate()
    minutes = box.upper() / "srv/minutes"
    before = len(lines(minutes))
    until("cron runs its job", lambda: len(lines(minutes)) > before, timeout=130)


@pytest.mark.limit(180)
def test_somebody_is_logged_in(lab, make_box, tmp_path):
    """Types before, during and after the move, and sees every character."""
    key = tmp_path / "key"
    lab.exec("client", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    box = make_box("login", "debian-13", 172, {"root/ssh_keys": (tmp_path / "key.pub").read_text()})
    box.exec("sh", "-c", "mkdir -p -m 700 /root/.ssh && cp /root/ssh_keys /root/.ssh/authorized_keys && chmod 600 /root/.ssh/*")
    box.answers(22)
    session = lab.popen("client", "ssh", "-tt", "-i", key, "-o", "StrictHostKeyChecking=no", "-o",
                        f"UserKnownHostsFile={tmp_path}/hosts", f"root@{box.ip4}", text=False, bufsize=0)
    screen = bytearray()

    def read():
        with contextlib.suppress(ValueError, OSError):
            while piece := session.stdout.read(4096):
                screen.extend(piece)

    threading.Thread(target=read, daemon=True).start()
    until("the shell is there", lambda: b"# " in screen, timeout=40)

    def typed(text, shown):
        session.stdin.write(text)
        until(f"the terminal shows {shown}", lambda: shown in screen, timeout=40)

    typed(b"kept=secret; tty; echo re''ady\n", b"ready")
    assert b"/dev/pts/" in screen
    sent = []
    mover = threading.Thread(target=box.migrate)
    mover.start()
    while mover.is_alive():  # one character after the other
        sent.append(b"echo n''%d.\n" % len(sent))
        session.stdin.write(sent[-1])
        time.sleep(0.02)
    mover.join()
    typed(b"echo $kept after''wards\n", b"secret afterwards")
    for number in range(len(sent)):
        shown = re.findall(rb"n%d\." % number, screen)  # as it is printed, wherever among what is typed
        assert len(shown) == 1, f"command {number} of {len(sent)}:\n{screen.decode()}"
    typed(b"sleep 1000\n", b"sleep 1000")
    time.sleep(0.5)
    box.migrate()
    typed(b"\003echo inter''rupted\n", b"interrupted")
    typed(b"exit\n", b"logout")
    assert session.wait(20) == 0 or session.returncode == 130
