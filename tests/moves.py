"""What the tests of moves share: boxes, their clients, a move that stops half-way, and what must be true afterwards."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import threading
import time
from pathlib import Path

from conftest import checked, command_line, lines, until

DROVER = "/var/lib/drover"
TCP_RTO_MAX_MS = 44  # Linux 6.15, include/uapi/linux/tcp.h


def with_patience(words):
    """The words of a move: how fast this machine is just now, is no matter of theirs."""
    return words if "--max-downtime" in words else ("--max-downtime", "60000", *words)


class Box:
    """A box on one of two nodes, and the calls that tests make about it."""

    def __init__(self, lab, name, template, number):
        self.lab, self.name, self.template = lab, name, template
        self.ip4, self.ip6 = f"10.77.0.{number}", f"fd77::1:{number:x}"

    def start(self, node="node1", *options):
        self.lab.exec(node, "drover-node", "box", "create", self.name, "--template", self.template,
                      "--ip", f"{self.ip4}/24", "--ip", f"{self.ip6}/64", *options)
        self.lab.exec(node, "drover-node", "box", "start", self.name)
        return self

    def states(self):
        """What each node says of the box: {"node1": "running"}."""
        return {node: box["state"] for node in self.lab.nodes
                for box in self.lab.json(node, "drover-node", "--json", "box", "list") if box["name"] == self.name}

    def settled(self):
        """Its states, when a node that has given up a move has had the time to take away what came of it."""
        end = time.monotonic() + 5
        while "arriving" in (states := self.states()).values() and time.monotonic() < end:
            time.sleep(0.1)
        return states

    def node(self):
        """The one node that runs it; no other may know of it."""
        states = self.settled()
        assert list(states.values()) == ["running"], f"box {self.name}: {states}"
        return next(iter(states))

    def other(self):
        here = self.node()
        return next(node for node in self.lab.nodes if node != here)

    def show(self):
        return self.lab.json(self.node(), "drover-node", "--json", "box", "show", self.name)

    def exec(self, *argv, **options):
        return self.lab.exec(self.node(), "drover-node", "box", "exec", self.name, "--", *argv, **options)

    def upper(self, node=None):
        """Its private layer, as this process can read it."""
        return self.lab.node(node or self.node()).path(f"{DROVER}/boxes/{self.name}/private/upper")

    def migrate(self, *words, check=True, timeout=120):
        """Moves it to the other node and returns the report, or the CompletedProcess where check is false."""
        here, there = self.node(), self.other()
        result = self.lab.exec(here, "drover-node", "--json", "box", "migrate", self.name, "--to", there, *with_patience(words),
                               check=False, timeout=timeout)
        if not check:
            return result
        checked(result)
        # The command has the other node's word that the box runs there, and does not wait for its last notes on disk.
        until("the other node has ended its part", lambda: self.states() == {there: "running"}, timeout=20, pause=0.1)
        served(self.lab, there)
        return json.loads(result.stdout)

    def answers(self, port, host=None):
        """Waits until something in the box listens on a TCP port."""
        def tries():
            try:
                self.lab.connect("client", host or self.ip4, port, timeout=2).close()
                return True
            except OSError:
                return False
        until(f"box {self.name} answers on port {port}", tries, timeout=40)
        return self

    def destroy(self):
        for node in self.states():
            self.lab.exec(node, "drover-node", "box", "destroy", "--force", self.name)


class Redis:
    """One connection to a redis server."""

    def __init__(self, lab, host, patience=90):
        self.socket = lab.connect("client", host, 6379)
        self.socket.settimeout(patience)
        try:
            # Or a client that has waited for 6 seconds waits for 6 more. Without the other it gives up after 15.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300_000)
            self.socket.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, 1000)
        except OSError:
            pass  # an older kernel: it only takes longer
        self.answers = self.socket.makefile("rb")

    def __call__(self, *words):
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in
                                                               (str(word).encode() for word in words)))
        answer = self.answers.readline()
        if not answer.endswith(b"\r\n"):
            raise ConnectionError("the connection ended")
        if answer[:1] == b"$":
            return None if answer == b"$-1\r\n" else self.answers.read(int(answer[1:]) + 2)[:-2]
        if answer[:1] == b":":
            return int(answer[1:])
        if answer.startswith(b"-LOADING"):  # it has just been started anew
            time.sleep(0.05)
            return self(*words)
        if answer[:1] != b"+":
            raise AssertionError(answer)
        return answer[1:-2]

    def close(self):
        self.answers.close()
        self.socket.close()


def filling(number):
    """A MiB that compresses to half of it at best."""
    return random.Random(number).randbytes(1 << 19).hex()


def fill(client, megabytes):
    """Of a redis; check_filled: all of it is still there."""
    for number in range(megabytes):
        client("SET", f"filled:{number}", filling(number))


def check_filled(client, megabytes):
    for number in range(megabytes):
        assert client("GET", f"filled:{number}") == filling(number).encode(), number


class Counter(threading.Thread):
    """A client that counts up on one TCP connection, and checks every answer."""

    def __init__(self, lab, host, key="count", pause=0.005):
        super().__init__(daemon=True)
        self.lab, self.host, self.second = lab, host, None
        self.redis, self.key, self.pause = Redis(lab, host), key, pause
        self.server = run_of(self.redis)
        self.value = self.redis("INCR", key)
        self.error, self.ending = None, False
        self.longest, self.seen = 0.0, time.monotonic()
        self.start()

    def run(self):
        try:
            while not self.ending:
                answer = self.redis("INCR", self.key)
                assert answer == self.value + 1, f"{self.value} was acknowledged, and then came {answer}"
                self.value = answer
                now = time.monotonic()
                self.longest, self.seen = max(self.longest, now - self.seen), now
                time.sleep(self.pause)
        except BaseException as problem:  # told to the test by check()
            self.error = problem

    def check(self, timeout=60):
        """It goes on counting, on the connection that it has had from the beginning."""
        before = self.value
        until("the client's connection goes on", lambda: self.error or self.value > before + 3, timeout)
        assert self.error is None, f"after {self.value} answers: {self.error!r}"

    def other(self):
        """One more connection to the same server."""
        self.second = self.second or Redis(self.lab, self.host)
        return self.second

    def finish(self):
        self.check()
        self.ending = True
        self.join(60)
        assert self.error is None, f"after {self.value} answers: {self.error!r}"
        self.redis.close()
        return self.value


def increments_on_disk(box):
    """How many INCR the private layer of a redis box holds: acknowledged ones are there."""
    logs = f"{DROVER}/boxes/{box.name}/private/upper/var/lib/redis/appendonlydir"
    return int(box.lab.exec(box.node(), "sh", "-c", f"cat {logs}/* | grep -aci '^INCR.$' || :").stdout)


def run_of(redis):
    """Each start of a redis has an id of its own."""
    return next(line for line in redis("INFO", "server").split() if line.startswith(b"run_id:"))


def hear_of_a_new_start(box, client):
    """A client that only waits for an answer does not hear that its server has ended."""
    box.answers(6379)
    now = Redis(client.lab, client.host)
    if run_of(now) != client.server:
        with contextlib.suppress(OSError):
            client.redis.socket.shutdown(socket.SHUT_RDWR)
    now.close()


def memory_or_disk(box, client, acknowledged):
    """Of a box whose bringer of memory was killed: all memory had come before, or the box was started anew. Then its connections
    are gone, and all writes that were acknowledged are there. Returns the client that goes on."""
    hear_of_a_new_start(box, client)
    until("the client's connection goes on or ends", lambda: client.error or client.value > acknowledged + 3, timeout=60)
    if client.error:
        assert isinstance(client.error, ConnectionError), client.error
        acknowledged = max(acknowledged, client.value)
        assert increments_on_disk(box) >= acknowledged
        client = Counter(box.lab, box.ip4)
        assert client.value > acknowledged
    return client


def runs_on(lab, box, node):
    """Whether the node's kernel lets processes of the box run, but for a box that CRIU is still making."""
    group = lab.group / node / "drover" / box.name
    events = lines(group / "cgroup.events")
    return "populated 1" in events and "frozen 0" in events and not criu_on(lab, node) \
        and not all(map(is_ending, lines(group / "cgroup.procs")))


def runs(lab, box):
    return [node for node in lab.nodes if runs_on(lab, box, node)]


class RunsOnce(threading.Thread):
    """Looks all the time whether a box runs on two nodes at once, until it is stopped or a test would have ended."""

    def __init__(self, lab, box):
        super().__init__(daemon=True)
        self.lab, self.box, self.twice, self.looks, self._ending = lab, box, [], 0, threading.Event()
        self.start()

    def run(self):
        end = time.monotonic() + 240
        since = None
        while not self._ending.wait(0.02) and time.monotonic() < end:
            self.looks += 1
            found = runs(self.lab, self.box)
            # Between two looks a box may go from one node to the other, and never back.
            if len(found) < 2 or not runs_on(self.lab, self.box, found[0]):
                since = None
                continue
            # What a CRIU that was killed has made half-way is ended soon, and no instruction of its programs has run.
            since = since or time.monotonic()
            if all(map(self._owns, found)) or time.monotonic() > since + 2:
                self.twice.append(found)

    def _owns(self, node):
        here = self.lab.node(node)
        arriving = here.path(f"{DROVER}/arriving/{self.box.name}/move.journal")
        return here.path(f"{DROVER}/boxes/{self.box.name}").exists() or '"mine"' in "".join(lines(arriving))

    def stop(self):
        self._ending.set()
        self.join()
        assert self.looks > 0
        assert not self.twice, f"box {self.box.name} ran on two nodes at once, at {len(self.twice)} of {self.looks} looks"


# A move that stops half-way


class Halted:
    """A move from where the box is to the other node, stopped at a point (base/pause.h) on either side."""

    def __init__(self, box, point, tmp_path, *words):
        self.lab, self.box, self.point = box.lab, box, point
        self.source, self.destination = box.node(), box.other()
        self.rsh = tmp_path / "rsh"
        if "--mode" not in words:  # the shortest way, and the one with the fewest processes
            words = ("--mode", "stop", *words)
        words = with_patience(words)
        # Only the first connection stops there: what recover asks and tells later must not. (Of the memory's, which
        # is the second one, nothing else comes to its point.)
        at_destination = f"env DROVER_PAUSE_AT={point}" if point.startswith("destination.") else ""
        # Once the box runs there, the source does not wait for it any more, and would be gone before it is looked for.
        self.held = point in ("destination.running", "destination.named")
        at_source = "source.running" if self.held else point
        first = "true" if point in BRINGERS else f"mkdir {tmp_path}/first 2>/dev/null"
        self.rsh.write_text("#!/bin/sh\nnode=$1; shift\n"
                            f"pause=''; {first} && pause='{at_destination}'\n"
                            'exec ssh -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=1 -o ServerAliveCountMax=4 '
                            '"$node" $pause "$@"\n')
        self.rsh.chmod(0o755)
        self.child = self.lab.popen(self.source, "env", f"DROVER_PAUSE_AT={at_source}", "drover-node", "--json", "box",
                                    "migrate", box.name, "--to", self.destination, "--rsh", str(self.rsh), *words)
        self.pids, self.once = {}, None
        try:
            self.stopped = until(f"the move stops at {point}", self._find_stopped, timeout=40)
        except BaseException:
            self.child.kill()
            raise

    def _find_stopped(self):
        if self.child.poll() is not None:
            out, err = self.child.communicate()
            raise AssertionError(f"the move ended with {self.child.returncode} before {self.point}:\n{out}{err}")
        self.pids |= parts(self.box, *map(self.lab.processes, (self.source, self.destination)))
        side = "bringer" if self.point in BRINGERS else self.point.split(".")[0]
        pid = self.pids.get(side)
        return side if pid and state(pid) == "T" and {"destination", "transport"} <= self.pids.keys() else None

    def kill(self, victim):
        self.once = self.once or RunsOnce(self.lab, self.box)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids[victim], signal.SIGKILL)
        until(f"the {victim} ends", lambda: has_ended(self.pids[victim]))
        if victim == "source":
            self.child.wait(10)
        elif self.stopped == "source":  # and knows of it when it goes on
            connection = self.pids["carrier" if victim == "bringer" else "transport"]
            # What CRIU restores may just wait for memory of the source, which is stopped: for 15 s.
            until("the connection ends", lambda: has_ended(connection), timeout=30)

    def resume(self):
        if state(self.pids[self.stopped]) == "T":
            os.kill(self.pids[self.stopped], signal.SIGCONT)
        if self.held:
            until("the source stops as well, or ends", lambda: state(self.child.pid) in ("T", "Z", None), timeout=110)
            if state(self.child.pid) == "T":
                os.kill(self.child.pid, signal.SIGCONT)

    def go_on(self):
        """Lets the side that stopped go on, unless it was killed, and waits until both have ended.
        Returns the source's exit status."""
        self.resume()
        self.out, self.err = self.child.communicate(timeout=110)
        until("the destination's side ends", lambda: has_ended(self.pids["destination"]), timeout=110)
        return self.child.returncode


def criu_that_restores(move):
    """CRIU's pid, of a move that has halted at destination.network."""
    def find():
        # It leaves the box's group just now.
        group = lines(move.lab.group / move.destination / "drover" / move.box.name / "cgroup.procs")
        return [pid for pid in {*members(move.lab, move.destination), *map(int, group)}
                if lines(f"/proc/{pid}/comm") == ["criu"] and command_line(parent(pid)).startswith("drover-node receive")]

    [pid] = until("CRIU works", find)
    return pid


@contextlib.contextmanager
def hung(lab, node, pid):
    """A process that does not go on, whatever signal it gets but SIGKILL."""
    group = lab.group / node / "hung"
    group.mkdir()
    try:
        group.joinpath("cgroup.procs").write_text(str(pid))
        group.joinpath("cgroup.freeze").write_text("1")
        yield
    finally:
        group.joinpath("cgroup.freeze").write_text("0")
        until("it has ended", lambda: not lines(group / "cgroup.procs"))
        group.rmdir()


def is_ending(pid):
    """No instruction of its program runs any more. (cgroup.kill ends frozen processes, which are not frozen then; to
    give back their memory takes a while.)"""
    for line in lines(f"/proc/{pid}/stat"):
        if int(line.rpartition(")")[2].split()[6]) & 4:  # PF_EXITING of Linux's sched.h
            return True
    pending = [int(line.split()[1], 16) for line in lines(f"/proc/{pid}/status") if line.startswith(("SigPnd", "ShdPnd"))]
    return not pending or any(signals & 1 << signal.SIGKILL - 1 for signals in pending)


def criu_on(lab, node):
    return [pid for pid in members(lab, node) if lines(f"/proc/{pid}/comm") == ["criu"]]


def criu_that_dumps(lab, node):
    """CRIU's pid. It is started just before the freeze, and may not be that program yet when the box is frozen."""
    (criu,) = until("CRIU has begun", lambda: criu_on(lab, node))
    return criu


def criu_has_dumped(lab, rack, tmp_path, mode):
    """A move at the post-dump notification of CRIU's, which waits for us; CRIU's pid; and what lets the move go on."""
    upper = rack.box.upper()
    move = Halted(rack.box, "source.rounds", tmp_path, "--mode", mode, "--force")
    # More than the pipes to ssh take, so that the last round waits while ssh is stopped.
    upper.joinpath("large").write_bytes(os.urandom(16 << 20))
    os.kill(move.pids["transport"], signal.SIGSTOP)
    move.resume()
    # Written at the end, and then CRIU waits for us, who wait for ssh.
    network = lab.node(move.source).path(f"/run/drover/boxes/{rack.box.name}/images/network.json")
    until("CRIU has dumped", network.exists, timeout=40)
    time.sleep(0.3)
    criu = criu_that_dumps(lab, move.source)
    return move, criu, lambda: os.kill(move.pids["transport"], signal.SIGCONT)


def processes(box):
    """The names of its processes, one for each, in order."""
    pids = lines(box.lab.group / box.node() / "drover" / box.name / "cgroup.procs")
    return sorted(name for pid in pids for name in lines(f"/proc/{pid}/comm"))


def started_processes(box):
    """The same, when it has started: a second long there were no others."""
    group = box.lab.group / box.node() / "drover" / box.name / "cgroup.procs"
    seen, since = None, time.monotonic()

    def steady():
        nonlocal seen, since
        if (now := lines(group)) != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 1

    until("its processes are the same for a second", steady, timeout=60)
    return processes(box)


def parts(box, here, there):
    """The pids of a move's processes, by what they do, out of the processes of the source's node and the destination's."""
    moves = [process.pid for process in here if process.words[:1] == ["drover-node"] and {"migrate", box.name} <= {*process.words}]
    # But for --mode stop there are two of each: the second pair is for the memory.
    links = [process.pid for process in here if process.name == "ssh" and process.parent in moves]
    guarded = {process.parent for process in there if process.words[:2] == ["drover-node", "guard"]}
    receivers = [process.pid for process in there if process.words[:2] == ["drover-node", "receive"]]
    found = {"source": moves, "destination": [pid for pid in receivers if pid not in guarded],
             "bringer": [pid for pid in receivers if pid in guarded], "transport": links, "carrier": links[1:]}
    return {name: pids[0] for name, pids in found.items() if pids}


def members(lab, machine):
    """Processes of a machine that are in none of its boxes."""
    return [int(pid) for pid in lines(lab.group / machine / "lab/cgroup.procs")]


def state(pid):
    """The letter of proc(5); None when there is no such process."""
    for line in lines(f"/proc/{pid}/stat"):
        return line.rpartition(")")[2].split()[0]
    return None


def has_ended(pid):
    """With all its threads: its first one may be a zombie before the others have let go of files and locks."""
    try:
        return state(pid) in (None, "Z") and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except (FileNotFoundError, ProcessLookupError):
        return True


def parent(pid):
    for line in lines(f"/proc/{pid}/stat"):
        return int(line.rpartition(")")[2].split()[1])
    return None


def started(pid):
    """When a process began, in ticks; 0 when it is gone."""
    for line in lines(f"/proc/{pid}/stat"):
        return int(line.rpartition(")")[2].split()[19])
    return 0


def recover(lab, order):
    """`drover-node recover` on nodes one after the other; a tuple in the order means: at once."""
    for turn in order:
        children = [(node, lab.popen(node, "drover-node", "--json", "recover"))
                    for node in (turn if isinstance(turn, tuple) else (turn,))]
        yield from ((node, child.communicate(timeout=110), child.returncode) for node, child in children)


def remains(lab, box, node, before):
    """What there is of a box on a node that must not have it any more, or never had it."""
    here = lab.node(node)
    found = {thing for thing in lab.inventory() - before if thing.startswith(node + ": ")}
    for kind in ("boxes", "arriving"):
        found |= {f"{kind}/{path.name}" for path in here.path(f"{DROVER}/{kind}").glob("*")}
        found |= {f"{kind}/{path.name}" for path in here.path(f"{DROVER}/{kind}").glob(".*")}
    found |= {str(path) for path in here.path("/run/drover/boxes").glob("*")}
    found |= {str(path) for path in here.path("/run/drover/crun").glob("*")}
    for table in here.exec("nft", "list", "tables").stdout.splitlines():
        found |= {table} if "netdev" in table else set()
    return found


def nothing_remains(lab, box, node, before):
    """Asserts it. As long as there are processes, they may end, or be about to take away the rest."""
    end = time.monotonic() + lab.settle_s
    left = remains(lab, box, node, before)
    while any(": process " in thing for thing in left) and time.monotonic() < end:
        time.sleep(0.05)
        left = remains(lab, box, node, before)
    assert not left, f"on {node} there is still: {left}"


# In the order in which a move passes them.
POINTS = ["source.leaving", "destination.arriving", "destination.round", "source.rounds", "source.frozen",
          "source.dumped", "destination.restoring", "destination.prepared", "source.prepared",
          # here the source gives it away
          "source.given", "destination.mine", "destination.running", "destination.named", "source.running"]
GIVEN = POINTS[POINTS.index("source.given"):]
# Of the process that brings the memory. It is there from before the first round on.
BRINGERS = ["destination.whole", "destination.released"]
BRINGER_AT = [*POINTS[POINTS.index("source.rounds"):], *BRINGERS]
ORDERS = ["source first", "destination first", "at once"]


def point_is_frozen(point):
    return POINTS.index(point) >= POINTS.index("source.frozen")


def served(lab, node, timeout=60):
    """Waits as long as a process of another node's is served here: it has a box locked, and forgets it in the end."""
    end = time.monotonic() + timeout
    while any("drover-node receive" in command_line(pid) for pid in members(lab, node)) and time.monotonic() < end:
        time.sleep(0.02)


def settle(lab, move, order):
    orders = {"source first": [move.source, move.destination], "destination first": [move.destination, move.source],
              "at once": [(move.source, move.destination)]}
    for node, (out, err), status in recover(lab, orders[order]):
        assert status in (0, 4), f"recover on {node} ended with {status}:\n{out}{err}"
    served(lab, move.destination)  # first: who brings memory there is served here up to the last word
    served(lab, move.source)
    # Whatever the first one could not settle, the second one does; and then there is nothing left to do.
    for node, (out, err), status in recover(lab, [move.source, move.destination]):
        assert status == 0, f"recover on {node} ended with {status}:\n{out}{err}"
    for node, (out, err), status in recover(lab, [move.destination, move.source]):
        assert (status, out.split()) == (0, ["[]"]), f"recover on {node} found something again:\n{out}{err}"
    if move.once:
        move.once.stop()


def check_status(move, victim, status):
    """The exit status of a move whose `victim` was killed where it had halted."""
    if victim == "source":
        assert status == -signal.SIGKILL
    elif move.point == "source.running":
        assert status == 0, move.err  # it had the other node's word already
    elif move.point in (*GIVEN, *BRINGERS):
        assert status in (0, 4), move.err
    else:
        assert status == (3 if point_is_frozen(move.point) else 1), move.err


def rounds_of(log):
    """What -v tells of each round of a tree: names that were looked at, whether only those that may have changed, and the
    bytes of content that were read."""
    found = [re.fullmatch(r"looked at (\d+) names(| that may have changed), \d+ differed, (\d+) bytes of content were read",
                          json.loads(line).get("debug", "")) for line in log.splitlines()]
    return [(int(one[1]), one[2] != "", int(one[3])) for one in found if one]


class Database:
    """A program in a box that writes pages of 8 KiB anywhere in a large file, and knows what it has written."""

    PROGRAM = r"""
use strict; use warnings; use Fcntl; use IO::Handle;
my ($pages, @version) = ($ARGV[0]);
sysopen(my $file, "/srv/base", O_RDWR | O_CREAT) or die;
sub page { return pack("NN", $_[0], $version[$_[0]]) x 1024; }
for (0 .. $pages - 1) { $version[$_] = 0; syswrite($file, page($_)) == 8192 or die; }
my $asked = 0;
$SIG{USR1} = sub { $asked = 1; };
open(my $told, ">", "/srv/told") or die; $told->autoflush(1);
print $told "begun\n";
for (my $count = 1;; $count++) {
  my $page = int(rand($pages)); $version[$page]++;
  sysseek($file, $page * 8192, 0); syswrite($file, page($page)) == 8192 or die;
  $file->sync if $count % 100 == 0;
  select(undef, undef, undef, 0.002) if $count % 4 == 0;
  next unless $asked;
  $asked = 0; my $wrong = 0;
  sysseek($file, 0, 0);
  for (0 .. $pages - 1) { sysread($file, my $there, 8192) == 8192 or die; $wrong++ if $there ne page($_); }
  print $told "$wrong of $count pages are wrong\n";
}
"""

    def __init__(self, box, size):
        self.box, self.checks = box, 0
        box.exec("sh", "-c", "cat > /root/database", input=self.PROGRAM)
        box.exec("sh", "-c", f"{{ setsid perl /root/database {size // 8192} </dev/null >/dev/null 2>&1 & }} ; sleep 0.5")
        until("the file is there", self._told, timeout=60)

    def _told(self):
        return self.box.exec("sh", "-c", "cat /srv/told 2>/dev/null; true").stdout.splitlines()

    def check(self):
        """It reads all of its file, and finds in each page what it wrote there last."""
        self.checks += 1
        self.box.exec("sh", "-c", "kill -USR1 $(pgrep -f '^perl /root/database')")
        (answer,) = until("it has looked", lambda: self._told()[self.checks:], timeout=60)
        assert answer.startswith("0 of "), answer
