"""Whatever programs can have in the kernel moves with their box, or is refused by name (docs/what-moves.md). The
programs are tests/lab/kinds*.cc: one process for each kind, all of them in one box that moves there and back."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import ROOT, checked, command_line, lines, no_time_limit, until
from moves import DROVER, Box, nothing_remains, with_patience

pytestmark = pytest.mark.limit(180)

# Set up, and as it was after each of two moves.
MOVED = """
open-file deleted-dense deleted-sparse deleted-mapped deleted-directory renamed
flock posix-lock ofd-lock lease inotify fanotify epoll eventfd timerfd pipe-data pipe-between fifo
mounts mount-namespace chroot proc-mount sysfs-mount devpts-mount mqueue-mount
private-memory lazy-memory shared-memory memfd sysv-shm sysv-sem sysv-msg aio robust-futex threads
tcp-listen tcp-client tcp-server tcp-loopback tcp-half-closed tcp-half-closed-outside tcp-ended tcp-full-queue tcp-time-wait
tcp-syn-sent tcp-unconnected udp raw-socket packet-socket netlink unix-sockets unix-names unix-passed unix-peers mptcp
clocks pending-signals signal-handlers signalfd posix-timers interval-timers sleeps stopped zombie
terminal-shell stopped-job raw-terminal terminal-data
credentials limits scheduling prctl subreaper thp-disabled seccomp
pidfd pidfd-dead deleted-program process-groups proc-files proc-of-dead net-namespace
""".split()

# CRIU 4.2 forgets them, and nothing tells before that they are there. Should one of them be kept one day: say so in
# docs/what-moves.md.
FORGOTTEN = {
    "affinity": "the number of processors is",
    "io-priority": "the I/O priority is 0",
    "timer-slack": "TIMERSLACK is 50000",
    "personality": "the personality is 0",
    "landlock": "the rules are gone",
    "aio-poll": "the poll does not end",
    "udp-unread": "the number of datagrams that wait is 0, not 1",
    "sysv-sem-undo": "the semaphore after the end of its holder is 4, not 5",
}

# What the move says of them, after "box refuses: process PID (NAME) ".
REFUSED = {
    "userfaultfd": "uses userfaultfd, which cannot be moved",
    "perf-event": "counts performance events, which cannot be moved",
    "landlock-rules": "holds Landlock rules, which cannot be moved",
    "secret-memory": "uses secret memory (memfd_secret), which cannot be moved",
    "ping-socket": "has a socket for pings, which cannot be moved",
    "sealed-mapping": "has mapped a memfd that is sealed against writing, which cannot be moved",
    "memfd-program": "runs a program that is only in memory (memfd), which cannot be moved",
    "eventfd-semaphore": "has an eventfd in semaphore mode, which cannot be moved",
    "pipe-packets": "has a pipe in packet mode (O_DIRECT), which cannot be moved",
    "posix-mq": "has the POSIX message queue /kinds open, which cannot be moved",
    "udp-multicast": "has joined a multicast group, which cannot be moved",
    "udp-multicast6": "has joined a multicast group, which cannot be moved",
    "vsock": "has a socket to the hypervisor (AF_VSOCK), which cannot be moved",
    "dev-tty": "has /dev/tty open, which cannot be moved",
    "traced": "is traced by traced (pid N), which cannot be moved",
    "vfork": "waits in vfork for a child that starts no program, which cannot be moved",
    "user-namespace": "has a user namespace of its own, which cannot be moved",
    "pid-namespace": "has a process namespace of its own, which cannot be moved",
    "uts-namespace": "has a host name namespace of its own, which cannot be moved",
    "ipc-namespace": "has an IPC namespace of its own, which cannot be moved",
    "time-namespace": "has a time namespace of its own, which cannot be moved",
    "cgroup-namespace": "has a control group namespace of its own, which cannot be moved",
    "held-namespace": "holds the namespace net:[N], in which no process is, which cannot be moved",
    "deleted-huge": "has a deleted file of 4100 MiB open, and 4095 MiB is the most that can be moved",
    "deleted-mapped-huge": "has a deleted file of 4100 MiB mapped, and 4095 MiB is the most that can be moved",
    "open-tree": "holds /, which lies outside the box",
}

# Not of one process, or only to be seen in the moment of the dump: (exit status, what the move says).
REFUSED_OTHERWISE = {
    "posix-mq-closed": (1, "box refuses has the POSIX message queue /kinds-closed, which cannot be moved"),
    "overlay-mount": (1, "box refuses has a file system of the type overlay on /srv/kinds/overlay-mount/merged, "
                         "which cannot be moved"),
    "cgroup-mount": (1, "box refuses has a file system of the type cgroup2 on /srv/kinds/cgroup-mount/at, which cannot "
                        "be moved"),
    "ramfs-mount": (1, "box refuses has a file system of the type ramfs on /srv/kinds/ramfs-mount/at, which cannot "
                       "be moved"),
    "unix-credentials": (3, "CRIU could not freeze the box into images: a message that tells who sent it waits in a "
                            "unix socket (SO_PASSCRED)"),
    "unix-unaccepted": (3, "CRIU could not freeze the box into images: a connection to a unix socket has something "
                           "in it, and nobody has accepted it yet"),
    "netlink-unread": (3, "CRIU could not freeze the box into images: messages of the kernel wait in a netlink "
                          "socket"),
}

# No box can get them, from the kernel or, io_uring, past its own filter of system calls (box/container.cc): so they
# cannot be refused in a test here. The preflight still looks for io_uring, for boxes started before they had the filter
# (tests/unit/migrate/preflight_box_test.cc).
IMPOSSIBLE = {"io-uring": "Function not implemented", "io-uring-mapped": "Function not implemented",
              "bpf-map": "Operation not permitted", "device-node": "Operation not permitted",
              "fuse": "No such file or directory", "crypto-socket": "", "sctp": ""}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """tests/lab/kinds*.cc as a program without libraries."""
    at = tmp_path_factory.mktemp("kinds")
    sources = sorted((ROOT / "tests/lab").glob("kinds*.cc"))
    with no_time_limit():
        compilers = [subprocess.Popen(["ccache", "g++", "-std=c++23", "-O1", "-Wall", "-Wextra", "-Werror", "-c", "-o",
                                       at / f"{source.stem}.o", source], text=True, stderr=subprocess.PIPE)
                     for source in sources]
        for compiler in compilers:
            _, talk = compiler.communicate(timeout=300)
            assert compiler.returncode == 0, talk
        checked(subprocess.run(["g++", "-static", "-s", "-o", at / "kinds", *at.glob("*.o")], text=True,
                               capture_output=True, timeout=300))
    return at / "kinds"


class Kinds(Box):
    """A box with tests/lab/kinds.cc in it, which serves some kinds from the start and others when told to."""

    def start(self, program, kinds):
        self.lab.exec("node1", "drover-node", "box", "create", self.name, "--template", self.template,
                      "--ip", f"{self.ip4}/24", "--ip", f"{self.ip6}/64")
        upper = self.lab.node("node1").path(f"{DROVER}/boxes/{self.name}/private/upper")
        (upper / "srv").mkdir()
        (upper / "etc").mkdir(exist_ok=True)
        (upper / "srv/serve").write_bytes(program.read_bytes())
        (upper / "srv/serve").chmod(0o755)
        inittab = (ROOT / "templates/definitions/files/inittab").read_text()
        (upper / "etc/inittab").write_text(f"{inittab}ki:2345:once:/bin/sh /srv/serve-all\n")
        (upper / "srv/serve-all").write_text(f"exec /srv/serve serve {' '.join(kinds)}\n")
        self.lab.exec("node1", "drover-node", "box", "start", self.name)
        self.where = "node1"
        until("the program serves", lambda: self.place("serving").exists(), timeout=40)
        until("all kinds are set up", lambda: all(self.says(kind) for kind in kinds), timeout=30)
        return self

    def migrate(self, *words, **options):
        report = super().migrate(*words, **options)
        self.where = self.node()  # asked once: says() is called often
        return report

    def place(self, name):
        return self.lab.node(self.where).path(f"{DROVER}/boxes/{self.name}/private/upper/srv/kinds") / name

    def pids(self):
        return set(lines(self.lab.group / self.where / "drover" / self.name / "cgroup.procs"))

    def says(self, kind):
        """What it has said so far: ready, ok, or failed: why."""
        text = "\n".join(lines(self.place(f"{kind}.says")))
        return [said.strip() for said in re.split(r"^(?=ready$|ok$|failed: )", text, flags=re.MULTILINE) if said]

    def look(self, kinds):
        """Each kind looks whether it is as it was; waits for their answers."""
        said = {kind: len(self.says(kind)) for kind in kinds}
        for pid in self.pids():
            if command_line(pid).startswith("/srv/serve serve") and lines(f"/proc/{pid}/comm") == ["serve"]:
                os.kill(int(pid), signal.SIGUSR1)

        def has_looked(kind):
            says = self.says(kind)
            return len(says) > said[kind] or says[-1].startswith("failed")

        with contextlib.suppress(pytest.fail.Exception):  # the tests tell which one has not answered
            until("all kinds have looked", lambda: all(map(has_looked, kinds)), timeout=60)

    def order(self, verb, kind):
        self.exec("sh", "-c", f"echo {verb} {kind} >/srv/kinds/orders")


class Peer:
    """What the kinds talk to: on the client machine, port 7001 echoes, 7002 reads nothing until told to, 7003
    answers no handshake until told to, 7004 says all and goes on listening, and 7005 hears all and goes on talking."""

    def __init__(self, lab):
        self.lab, self.silent = lab, None
        self.sockets, self.heard = [], b""
        self._listen(socket.AF_INET, 7001, self._echo)
        self._listen(socket.AF_INET6, 7001, self._echo)
        self._listen(socket.AF_INET, 7003, self._echo)
        self._listen(socket.AF_INET, 7002, self._keep)
        self._listen(socket.AF_INET, 7004, self._hear)
        self._listen(socket.AF_INET, 7005, self._talk)
        self._nft("add table inet kinds; add chain inet kinds in { type filter hook input priority 0; }; "
                  "add rule inet kinds in tcp dport 7003 drop")

    def answer_handshakes(self):
        self._nft("flush chain inet kinds in")

    def read_all(self):
        self.silent.settimeout(2)
        data = bytearray()
        with contextlib.suppress(TimeoutError):
            while piece := self.silent.recv(1 << 20):
                data += piece
        return bytes(data)

    def close(self):
        self._nft("delete table inet kinds")
        for each in self.sockets:
            each.close()

    def _nft(self, rules):
        self.lab.exec("client", "nft", rules)

    def _listen(self, family, port, serve):
        listener = self.lab.socket("client", family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(("", port))
        listener.listen(5)
        self.sockets.append(listener)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    self.sockets.append(connection)
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def _echo(self, connection):
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                connection.sendall(piece)

    def _keep(self, connection):
        self.silent = connection

    def _hear(self, connection):
        connection.sendall(b"all")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                self.heard += piece

    def _talk(self, connection):
        with contextlib.suppress(OSError):
            assert connection.recv(1) == b""
            while True:
                connection.sendall(b"tick")
                time.sleep(0.1)


@pytest.fixture(scope="module")
def moved(lab, templates, program):
    """The box of all kinds that can be moved, after two moves, and what was seen from outside meanwhile."""
    kinds = [*MOVED, *FORGOTTEN]
    peer, box = Peer(lab), Kinds(lab, "kinds", "debian-13", 160)
    try:
        with no_time_limit():
            box.start(program, kinds)
            setup = {kind: box.says(kind) for kind in kinds}
            talk = [lab.connect("client", box.ip4, 8010, timeout=60), lab.connect("client", box.ip6, 8010, timeout=60)]
            answers = []

            def ask(text):
                for connection in talk:
                    connection.sendall(text)
                    answers.append(connection.recv(100))

            ask(b"before")
            for turn, mode in ((1, "precopy"), (2, "hybrid")):
                if turn == 2:
                    peer.answer_handshakes()
                assert box.migrate("--mode", mode)["mode"] == mode
                ask(b"after %d" % turn)
                box.look(kinds)
            rest = []
            for connection in talk:
                connection.shutdown(socket.SHUT_WR)
                rest.append(connection.recv(100))
            sent = int(box.place("tcp-full-queue/sent").read_text())
            received = peer.read_all()
        yield {"setup": setup, "says": {kind: box.says(kind) for kind in kinds}, "answers": answers, "rest": rest,
               "sent": sent, "received": received, "heard": peer.heard}
    finally:
        peer.close()
        box.destroy()


def test_everything_could_be_set_up(moved):
    assert {kind: said for kind, said in moved["setup"].items() if said != ["ready"]} == {}


@pytest.mark.parametrize("kind", MOVED)
def test_moves(moved, kind):
    assert moved["says"][kind] == ["ready", "ok", "ok"]


@pytest.mark.parametrize("kind", FORGOTTEN)
def test_is_forgotten(moved, kind):
    says = moved["says"][kind]
    assert says[-1].startswith("failed: " + FORGOTTEN[kind]), says


def test_connections_from_outside(moved):
    assert moved["answers"] == [b"before"] * 2 + [b"after 1"] * 2 + [b"after 2"] * 2
    assert moved["rest"] == [b"the end"] * 2  # the client has said all, and still gets an answer
    assert moved["heard"] == b"still 1 still 2 "  # who has said all, and still hears


def test_full_send_queue_arrives_whole(moved):
    assert moved["sent"] > 100_000
    expected = b"".join(b"%d\n" % number for number in range(10_000_000, 10_000_000 + moved["sent"] // 9 + 1))
    assert moved["received"] == expected[:moved["sent"]]


@pytest.mark.limit(300)
@pytest.mark.parametrize("mode", ["stop", "precopy", "postcopy", "hybrid"])
def test_asynchronous_requests_under_way(lab, templates, program, mode):
    """Direct reads and writes at any moment, as of InnoDB: what they read and write, and the word that they are over."""
    box = Kinds(lab, "requests", "debian-13", 163)
    try:
        box.start(program, ["aio-under-way"])
        for turn in (1, 2, 3):
            box.migrate("--mode", mode, "--force")
            box.look(["aio-under-way"])
            assert box.says("aio-under-way") == ["ready", *["ok"] * turn]
    finally:
        box.destroy()


@pytest.mark.limit(300)
def test_asynchronous_requests_are_waited_for(lab, templates, program, tmp_path):
    """Those under way at any time end one after the other, in 0.3 s: CRIU would lose all of them."""
    box = Kinds(lab, "clocked", "debian-13", 164)
    try:
        box.start(program, ["aio-clocked"])
        for turn, mode in enumerate(("stop", "precopy", "postcopy"), 1):
            report = box.migrate("--mode", mode, "--force")
            assert report["freeze_ms"] > 250
            box.look(["aio-clocked"])
            assert box.says("aio-clocked") == ["ready", *["ok"] * turn]
        here = box.where
        lab.exec(here, "drover-node", "box", "checkpoint", box.name, tmp_path / "file")
        lab.exec(here, "drover-node", "box", "destroy", "--force", box.name)
        lab.exec(here, "drover-node", "box", "restore", tmp_path / "file")
        box.look(["aio-clocked"])
        assert box.says("aio-clocked")[-1] == "ok"
    finally:
        box.destroy()


@pytest.mark.limit(300)
@pytest.mark.parametrize("mode", ["postcopy", "precopy", "hybrid"])
def test_private_memory_of_every_sort(lab, templates, program, mode):
    """tests/lab/kinds_lazy.cc, and that CRIU does not look at it page by page (docs/decisions/0015)."""
    box = Kinds(lab, "lazykind", "debian-13", 162)
    try:
        box.start(program, ["lazy-memory"])
        assert box.says("lazy-memory") == ["ready"]
        for turn in (1, 2, 3):
            log = lab.node(box.where).path("/run/drover/log/lazykind.criu.log")
            report = box.migrate("--mode", mode, "--force")
            lazy = [int(number) for number in re.findall(r"Pagemap generated: \d+ pages \((\d+) lazy\)", log.read_text())]
            assert len(lazy) > 10
            assert sum(lazy) < 4000  # of 100,000 in the processes
            assert sum(phase["bytes"] for phase in report["phases"] if phase["name"].startswith("memory")) > 16 << 20
            box.look(["lazy-memory"])
            assert box.says("lazy-memory") == ["ready", *["ok"] * turn]
    finally:
        box.destroy()


@pytest.fixture(scope="module")
def refuses(lab, templates, program):
    box = Kinds(lab, "refuses", "debian-13", 161)
    try:
        with no_time_limit():
            box.start(program, ["eventfd"])
        yield box
    finally:
        box.destroy()


@contextlib.contextmanager
def with_kind(box, kind):
    """One more kind in the box; afterwards it is as if it had never been there."""
    before = box.pids()
    box.exec("rm", "-f", f"/srv/kinds/{kind}.says")
    box.order("start", kind)
    until(f"{kind} is set up", lambda: box.says(kind))
    try:
        yield
    finally:
        box.order("stop", kind)
        until("its processes are gone", lambda: box.pids() <= before)


def attempt(box):
    """A move that is refused: (exit status, error, hint). The box goes on as before."""
    pid = box.show()["pid"]
    before = box.lab.inventory()
    result = box.lab.exec("node1", "drover-node", "box", "migrate", box.name, "--to", "node2", *with_patience(()), check=False)
    said = [line for line in result.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert [line.split(": ")[0] for line in said] == ["error", "hint"], result.stderr
    until("the other node knows nothing of it", lambda: box.states() == {"node1": "running"})
    assert box.show()["pid"] == pid
    assert "frozen 0" in (box.lab.group / "node1/drover" / box.name / "cgroup.events").read_text()
    nothing_remains(box.lab, box, "node2", before)
    return result.returncode, said[0].removeprefix("error: "), said[1].removeprefix("hint: ")


def still_well(box, kinds):
    said = {kind: len(box.says(kind)) for kind in kinds}
    box.look(kinds)
    for kind, before in said.items():
        assert box.says(kind)[before:] == ["ok"], kind


@pytest.mark.parametrize("kind", REFUSED)
def test_is_refused(refuses, kind):
    with with_kind(refuses, kind):
        assert refuses.says(kind) == ["ready"]
        status, error, hint = attempt(refuses)
        assert re.sub(r"process \d+ \([^)]*\)", "process", re.sub(r"(?<=pid )\d+|(?<=\[)\d+", "N", error)) == \
            f"box refuses: process {REFUSED[kind]}"
        assert status == 1
        assert hint
        still_well(refuses, ["eventfd", kind])


@pytest.mark.parametrize("kind", REFUSED_OTHERWISE)
def test_is_refused_otherwise(refuses, kind):
    with with_kind(refuses, kind):
        assert refuses.says(kind) == ["ready"]
        status, error, hint = attempt(refuses)
        assert (status, error) == REFUSED_OTHERWISE[kind]
        assert hint
        still_well(refuses, ["eventfd", kind])
        if kind in ("cgroup-mount", "ramfs-mount"):
            refuses.exec("umount", f"/srv/kinds/{kind}/at")
        if kind == "overlay-mount":
            refuses.exec("umount", "/srv/kinds/overlay-mount/merged", "/srv/kinds/overlay-mount/upper")
        if kind == "posix-mq-closed":
            refuses.exec("rm", "/dev/mqueue/kinds-closed")


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_no_box_can_have_it(refuses, kind):
    with with_kind(refuses, kind):
        [said] = refuses.says(kind)
        assert said.startswith("failed: ")
        assert IMPOSSIBLE[kind] in said


def test_nothing_waits_when_it_is_frozen(lab, templates, program):
    """Two programs that take their time to accept connections: no connection is lost, and CRIU does not meet one."""
    box = Kinds(lab, "slow", "debian-13", 163)
    try:
        box.start(program, ["slow-accept"])
        for _ in range(2):
            box.migrate()
            box.look(["slow-accept"])
        assert box.says("slow-accept") == ["ready", "ok", "ok"]
    finally:
        box.destroy()


def test_unread_events_are_forgotten(lab, templates, program):
    """The box is frozen without them in the end; the watch is there afterwards."""
    box = Kinds(lab, "unread", "debian-13", 162)
    try:
        box.start(program, ["inotify-pending"])
        box.migrate()
        box.look(["inotify-pending"])
        assert box.says("inotify-pending") == ["ready", 'failed: the events is "", not "1early "']
    finally:
        box.destroy()


def test_started_from_outside(lab, refuses):
    """A program that was left behind by `box exec`, with a file of the node as its output."""
    before = refuses.pids()
    lab.exec("node1", "sh", "-c",
             f"drover-node box exec {refuses.name} -- sh -c 'sleep 1000 &' >/run/output 2>&1 </dev/null")
    until("only the program is left", lambda: len(refuses.pids() - before) == 1)
    try:
        _, error, hint = attempt(refuses)
        assert re.fullmatch(r"box refuses: process \d+ \(sleep\) holds /.*output, which lies outside the box", error)
        assert "box exec" in hint
    finally:
        for pid in refuses.pids() - before:
            os.kill(int(pid), signal.SIGKILL)
        lab.exec("node1", "rm", "-f", "/run/output")
