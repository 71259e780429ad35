"""A box moves between two real kernels: Debian's own, with its control groups and transparent huge pages."""

import contextlib
import itertools
import json
import os
import re
import threading
import time

import pytest
from conftest import CLIENT, ROOT, until
from guests import Move, guests, recover  # noqa: F401: a fixture
from moves import (BRINGER_AT, BRINGERS, DROVER, GIVEN, POINTS, Box, Counter, Database, Redis, check_filled, fill,
                   increments_on_disk, memory_or_disk, rounds_of)

pytestmark = [pytest.mark.slow, pytest.mark.limit(180)]

MODES = ["stop", "postcopy", "precopy"]
ALL_MODES = [*MODES, "hybrid"]


@pytest.fixture
def make_box(guests):  # noqa: F811
    """make_box(NAME, TEMPLATE, NUMBER) starts a box on node1; it is gone after the test."""
    made = []

    def make(name, template, number):
        box = Box(guests, name, template, number)
        made.append(box)
        return box.start()

    yield make
    guests.mend()
    try:
        for box in made:
            box.destroy()
    except AssertionError:
        guests.clean()  # the test has failed; the next one begins anew
        raise


@pytest.fixture(scope="module")
def shared(guests):  # noqa: F811
    box = Box(guests, "moved", "redis", 22)
    yield box
    box.destroy()


@pytest.fixture
def moved(guests, shared):  # noqa: F811
    """A redis box that one test after the other moves, as long as all is well with it."""
    states = [*shared.states().values()]
    busy = any(guests.sh(node, "grep -lsx drover-node /proc/[0-9]*/comm || :") for node in guests.nodes)
    if busy or states != ["running"]:
        if busy or states:  # a test has failed, or its node was off
            guests.clean()
        shared.start().answers(6379)
    yield shared
    guests.mend()


class Client:
    """tests/tools/redis_client.py in the client's network namespace."""

    def __init__(self, lab, box, *options):
        self.child = lab.popen(CLIENT, "python3", ROOT / "tests/tools/redis_client.py", box.ip4, *options)
        line = self.child.stdout.readline()
        assert line == "ready\n", line + self.child.communicate(timeout=10)[1]

    def finish(self):
        """What it has seen: nothing wrong, no error, no reset."""
        out, err = self.child.communicate("", timeout=100)
        seen = json.loads(out)
        assert (seen["wrong"], seen["errors"], seen["resets"], self.child.returncode) == (0, 0, 0, 0), (seen, err)
        return seen


@pytest.mark.parametrize("mode", MODES)
def test_client_sees_no_error(guests, make_box, mode):  # noqa: F811
    box = make_box("counted", "redis", 20).answers(6379)
    client = Client(guests, box, "--fill", "20", "--pause", "5")
    report = box.migrate("--mode", mode)
    assert (report["mode"], report["outcome"], report["to"]) == (mode, "moved", "node2")
    assert report["wire_bytes"] + sum(phase["bytes"] for phase in report["phases"]) > 20_000_000  # its memory has come
    back = box.migrate("--mode", mode)
    assert (back["outcome"], box.node()) == ("moved", "node1")
    seen = client.finish()
    counted = int(guests.exec(CLIENT, "redis-cli", "-h", box.ip4, "get", "count").stdout)
    assert counted == seen["requests"] + 1 <= increments_on_disk(box)
    assert seen["gap_ms"] <= seen["seconds"] * 1000


def only_in_memory(guests, box, megabytes):  # noqa: F811
    """Fills a redis that writes nothing to its disk."""
    redis = Redis(guests, box.ip4)
    redis("CONFIG", "SET", "appendonly", "no")
    redis("CONFIG", "SET", "save", "")
    fill(redis, megabytes)
    return redis


@contextlib.contextmanager
def long_way(guests):  # noqa: F811
    """A second from node to node and back."""
    for node in guests.nodes:
        guests.sh(node, "tc qdisc add dev eth0 root netem delay 500ms limit 100000")
    try:
        yield
    finally:
        for node in guests.nodes:
            guests.sh(node, "tc qdisc del dev eth0 root")


@pytest.mark.limit(240)
def test_over_a_long_way_memory_takes_several_connections(guests, make_box):  # noqa: F811
    """ssh sends 2 MiB and waits for an answer: that is what limits, and not the one processor that a node has."""
    box = make_box("far", "redis", 25).answers(6379)
    redis = only_in_memory(guests, box, 96)
    with long_way(guests):
        report = box.migrate("--mode", "precopy", timeout=180)
    assert (report["outcome"], report["mode"]) == ("moved", "precopy")
    assert report["streams"] > 1, report
    check_filled(redis, 96)


LIMITS = {"memory.max": "41943040", "pids.max": "15", "cpu.max": "50000 100000"}


def test_limits_are_kept(guests, make_box):  # noqa: F811
    """What a box has set in its own control groups; the node's kernel enforces it there as here."""
    box = make_box("limited", "groups", 21)
    sets = " ".join(f"echo {value} >limited/{file};" for file, value in LIMITS.items())
    box.exec("sh", "-ec", "cd /sys/fs/cgroup; mkdir main limited; "
             "for pid in $(cat cgroup.procs); do echo $pid >main/cgroup.procs; done; "
             f"echo +memory +pids +cpu >cgroup.subtree_control; {sets} "
             "setsid sh -c 'echo $$ >limited/cgroup.procs; echo $$ >/run/pid; while :; do sleep 1; done' "
             "</dev/null >/dev/null 2>&1 & until [ -s /run/pid ]; do sleep 0.1; done")
    pid = box.exec("cat", "/run/pid").stdout
    for _ in range(2):  # there, and back to where crun has made the group
        box.migrate()
        values = {file: box.exec("cat", f"/sys/fs/cgroup/limited/{file}").stdout.strip() for file in LIMITS}
        assert values == LIMITS
        assert pid in box.exec("cat", "/sys/fs/cgroup/limited/cgroup.procs").stdout.splitlines(keepends=True)
        inside = "echo $$ >/sys/fs/cgroup/limited/cgroup.procs; "
        forks = box.exec("sh", "-c", inside + "for k in $(seq 20); do sleep 2 & done; wait", check=False)
        assert "fork" in forks.stderr, forks
        eats = box.exec("sh", "-c", inside + "exec dd if=/dev/zero of=/dev/null bs=80M count=1", check=False)
        assert eats.returncode != 0
        assert re.search(r"^oom_kill [1-9]", box.exec("cat", "/sys/fs/cgroup/limited/memory.events").stdout, re.M)
        assert box.exec("dd", "if=/dev/zero", "of=/dev/null", "bs=80M", "count=1").returncode == 0


# Crashes


# Each point, each mode and each victim; with ci/test --all each with each.
KILLED = {
    ("source.leaving", "destination", "precopy"), ("destination.arriving", "source", "hybrid"),
    ("destination.round", "destination", "postcopy"), ("source.rounds", "bringer", "precopy"),
    ("source.frozen", "source", "precopy"), ("source.dumped", "bringer", "hybrid"),
    ("destination.restoring", "source", "postcopy"), ("destination.prepared", "destination", "stop"),
    ("source.prepared", "source", "stop"), ("source.given", "source", "stop"), ("source.given", "bringer", "postcopy"),
    ("destination.mine", "destination", "stop"), ("destination.running", "destination", "hybrid"),
    ("destination.named", "source", "precopy"), ("destination.whole", "bringer", "precopy"),
    ("destination.released", "bringer", "hybrid"),
    ("source.running", "destination", "stop")}


def kills():
    for point, victim, mode in itertools.product([*POINTS, *BRINGERS], ["source", "destination", "bringer"], ALL_MODES):
        if victim == "bringer" and point not in BRINGER_AT or mode == "stop" and (victim == "bringer" or point in BRINGERS):
            continue
        yield pytest.param(point, victim, mode, id=f"{point}-{victim}-{mode}",
                           marks=() if (point, victim, mode) in KILLED else pytest.mark.exhaustive)


@pytest.mark.parametrize("point, victim, mode", kills())
def test_killed(guests, moved, point, victim, mode):  # noqa: F811
    client = Counter(guests, moved.ip4)
    move = Move(guests, moved, point, mode)
    acknowledged = client.value
    move.kill(victim)
    move.go_on()
    given = point in (*GIVEN, *BRINGERS)
    if given:
        unguarded(guests, move)
    settle(guests)
    unguarded(guests, move)
    owner = move.destination if given else move.source
    assert moved.states() == {owner: "running"}
    if given and victim == "bringer" and point != "destination.released":
        client = memory_or_disk(moved, client, acknowledged)
    acknowledged = client.finish()  # on the connection that it has had from the beginning
    assert increments_on_disk(moved) >= acknowledged


def unguarded(guests, move):  # noqa: F811
    until("nothing brings memory any more", lambda: not guests.drover(move.destination, "guard"), timeout=100)


CUT_S = 15  # longer than ssh bears


@pytest.mark.limit(240)
@pytest.mark.parametrize("point, mode", [
    ("source.given", "stop"), *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (
        ("source.rounds", "postcopy"), ("source.frozen", "stop"), ("destination.prepared", "stop"),
        ("destination.prepared", "precopy"), ("source.given", "precopy")))])
def test_link_is_cut(guests, moved, point, mode):  # noqa: F811
    client = Counter(guests, moved.ip4)
    move = Move(guests, moved, point, mode)
    with guests.cut():
        move.resume()
        runs_nowhere_but(move, () if point in GIVEN else (move.source,))
    status = move.go_on()
    settle(guests)
    owner = moved.node()
    assert owner == move.destination or (point not in GIVEN and status in (1, 3)), (owner, status, move.err)
    acknowledged = client.finish()
    assert increments_on_disk(moved) >= acknowledged


def runs_nowhere_but(move, nodes):
    end = time.monotonic() + CUT_S
    while time.monotonic() < end:
        assert {*move.runs()} <= {*nodes}


@pytest.mark.limit(240)
def test_link_is_cut_while_memory_follows(guests, make_box):  # noqa: F811
    """The box runs already, and what it lacks is nowhere but at the source."""
    box = make_box("cut", "redis", 27).answers(6379)
    redis = only_in_memory(guests, box, 96)
    client = Counter(guests, box.ip4)
    move = Move(guests, box, "source.given", "postcopy")
    move.resume()
    until("the box runs at the destination", lambda: move.runs() == [move.destination], timeout=60)
    with guests.cut():
        runs_nowhere_but(move, (move.destination,))
        assert guests.drover(move.destination, "guard"), "all memory had come before the link was cut"
    assert move.go_on() in (0, 4), move.err
    unguarded(guests, move)
    settle(guests)
    assert box.states() == {move.destination: "running"}
    client.finish()
    check_filled(redis, 96)


@pytest.mark.parametrize("mode", ["postcopy", pytest.param("stop", marks=pytest.mark.exhaustive)])
def test_criu_is_killed_while_it_restores(guests, moved, mode):  # noqa: F811
    client = Counter(guests, moved.ip4)
    move = Move(guests, moved, "destination.network", mode)
    kill_criu(guests, move.destination)
    assert move.go_on() == 3, move.err
    outcome, error = move.outcome()
    assert outcome == "rolled_back" and "CRIU could not restore the box from images" in error
    moves_after_all(guests, move, client)


@pytest.mark.parametrize("mode", ["precopy", pytest.param("stop", marks=pytest.mark.exhaustive)])
def test_criu_is_killed_while_it_dumps(guests, moved, mode):  # noqa: F811
    """At its post-dump notification, where the last round waits because ssh does (tests/crash/test_faults.py)."""
    client = Counter(guests, moved.ip4)
    move = Move(guests, moved, "source.rounds", mode)
    large = f"{DROVER}/boxes/{moved.name}/private/upper/large"
    guests.sh(move.source, f"head -c 16M /dev/urandom >{large}; kill -STOP {move.pids['transport']}")
    move.resume()
    network = f"/run/drover/boxes/{moved.name}/images/network.json"
    until("CRIU has dumped", lambda: guests.sh(move.source, f"ls {network} 2>/dev/null || :"), timeout=60)
    time.sleep(2)
    kill_criu(guests, move.source)
    assert "frozen 1" in guests.sh(move.source, f"cat /sys/fs/cgroup/drover/{moved.name}/cgroup.events")
    guests.sh(move.source, f"kill -CONT {move.pids['transport']}")
    assert move.go_on() == 3, move.err
    guests.sh(move.source, f"rm {large}")
    outcome, error = move.outcome()
    assert outcome == "rolled_back" and "CRIU could not freeze the box into images" in error
    moves_after_all(guests, move, client)


def kill_criu(guests, node):  # noqa: F811
    """And not what it has begun to restore, which has the same name."""
    def criu():
        there = guests.processes(node)
        ours = [process.pid for process in there if process.name == "drover-node"]
        return [process.pid for process in there if process.name == "criu" and process.parent in ours and process.state != "Z"]

    pid, = criu()
    guests.sh(node, f"kill -KILL {pid}")
    until("CRIU has ended", lambda: not criu())


def moves_after_all(guests, move, client):  # noqa: F811
    """The move was rolled back, which nobody has to recover, and the next one succeeds."""
    guests.served()
    assert move.box.states() == {move.source: "running"}
    client.check()
    assert move.box.migrate("--mode", "stop")["outcome"] == "moved"
    acknowledged = client.finish()
    assert increments_on_disk(move.box) >= acknowledged


@contextlib.contextmanager
def filled(guests, node, where):  # noqa: F811
    """A file system of a node has no room."""
    try:
        guests.sh(node, f"fallocate -l $(($(stat -f -c '(%f * %S)' {where}) - (20 << 20))) {where}/fill; "
                        f"dd if=/dev/zero of={where}/rest bs=64k 2>/dev/null || :")
        yield
    finally:
        guests.sh(node, f"rm -f {where}/fill {where}/rest")


@pytest.mark.parametrize("full, expected", [(DROVER, 1), ("/run", 3)])
def test_destination_has_no_space_left(guests, moved, full, expected):  # noqa: F811
    """Another one has filled it since the preflight. No box was ever there: a new directory wants room as well."""
    client = Counter(guests, moved.ip4)
    guests.sh(moved.other(), f"rm -rf {DROVER}/boxes {DROVER}/arriving")
    move = Move(guests, moved, "destination.arriving")
    with filled(guests, move.destination, full):
        assert move.go_on() == expected, move.err
        guests.served()
        outcome, error = move.outcome()
        assert outcome == "rolled_back"
        assert error.startswith(f"{move.destination}: cannot write /") and error.endswith(": the disk of this node is full")
        assert moved.states() == {move.source: "running"}
    moves_after_all(guests, move, client)


def test_source_disk_is_full(guests, make_box):  # noqa: F811
    box = make_box("full", "redis", 29).answers(6379)
    only_in_memory(guests, box, 1)  # the box needs no room either
    client = Counter(guests, box.ip4)
    move = Move(guests, box, "source.prepared", "precopy")
    filled = f"{DROVER}/filled"
    guests.sh(move.source, f"fallocate -l $(df --output=avail -B1 {DROVER} | tail -n 1) {filled} || :; "
              f"dd if=/dev/zero of={filled}.more bs=4k status=none || :")
    try:
        status = move.go_on()
    finally:
        guests.sh(move.source, f"rm -f {filled} {filled}.more")
    assert status in (0, 3, 4), move.err
    unguarded(guests, move)
    settle(guests)
    assert box.states() == {move.source if status == 3 else move.destination: "running"}
    client.finish()


def test_destination_memory_is_short(guests, moved):  # noqa: F811
    """The look beforehand says so."""
    other = moved.other()
    free = int(guests.sh(other, "awk '/^MemAvailable/ {print $2}' /proc/meminfo"))
    guests.sh(other, f"mkdir -p /srv/taken; mount -t tmpfs -o size=100% taken /srv/taken; "
              f"dd if=/dev/zero of=/srv/taken/memory bs=1M count={free // 1024 - 60} status=none")
    try:
        refused = moved.migrate(check=False)
    finally:
        guests.sh(other, "umount /srv/taken")
    assert refused.returncode == 1, refused.stderr
    said = json.loads(refused.stderr.splitlines()[-1])
    assert re.search(f"{other} has \\d+ MiB? of memory free, and box {moved.name} needs \\d+ MiB? to be restored", said["error"]), said
    assert said["hint"] == "choose a node with more memory"
    moved.migrate()


def test_slow_link(guests, moved):  # noqa: F811
    client = Counter(guests, moved.ip4)
    redis = Redis(guests, moved.ip4)
    fill(redis, 8)
    for node in guests.nodes:
        guests.sh(node, "tc qdisc add dev eth0 root tbf rate 20mbit burst 64kb latency 100ms")
    try:
        report = moved.migrate("--mode", "hybrid", timeout=160)
    finally:
        for node in guests.nodes:
            guests.sh(node, "tc qdisc del dev eth0 root")
    assert report["outcome"] == "moved"
    check_filled(redis, 8)
    redis.close()
    client.finish()


def test_second_migrate(guests, moved):  # noqa: F811
    client = Counter(guests, moved.ip4)
    move = Move(guests, moved, "source.leaving", "precopy")
    second = guests.exec(move.source, "drover-node", "box", "migrate", moved.name, "--to", move.destination, check=False)
    assert second.returncode == 1 and f"box {moved.name} is busy" in second.stderr, second.stderr
    assert move.go_on() == 0, move.err
    assert moved.states() == {move.destination: "running"}
    client.finish()


@contextlib.contextmanager
def set_clocks(guests, jump):  # noqa: F811
    for node in guests.nodes:
        guests.sh(node, f"date -s '{jump}'")
    try:
        yield
    finally:
        for node in guests.nodes:
            guests.sh(node, f"date -s @{int(time.time())}")


@pytest.mark.parametrize("point, jump", [("source.frozen", "400 days"), ("destination.prepared", "-2 days"),
                                         ("source.given", "400 days")])
def test_clocks_jump(guests, moved, point, jump):  # noqa: F811
    """On both nodes, in the midst of a move: what has a deadline goes by a clock that nobody sets."""
    client = Counter(guests, moved.ip4)
    move = Move(guests, moved, point)
    with set_clocks(guests, jump):
        assert move.go_on() == 0, move.err
        assert moved.states() == {move.destination: "running"}
        acknowledged = client.finish()
        assert increments_on_disk(moved) >= acknowledged


@pytest.mark.limit(300)
@pytest.mark.parametrize("point, victim, mode", [
    ("destination.prepared", "destination", "stop"), ("source.given", "source", "stop"),
    ("destination.prepared", "destination", "precopy"), ("source.given", "source", "postcopy"),
    *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in (
        ("source.prepared", "source", "stop"), ("source.given", "source", "precopy"), ("destination.mine", "destination", "stop"),
        ("destination.mine", "destination", "postcopy")))])
def test_power_cut(guests, make_box, point, victim, mode):  # noqa: F811
    """A node is gone in the midst. The other one recovers alone, and then both when the power is back."""
    box = make_box("power", "redis", 23).answers(6379)
    count = Redis(guests, box.ip4)
    assert [count("INCR", "count") for _ in range(50)] == list(range(1, 51))
    count.close()
    move = Move(guests, box, point, mode)
    gone = move.source if victim == "source" else move.destination
    left = move.destination if victim == "source" else move.source
    owner = move.destination if point in GIVEN else move.source
    guests.off(gone)
    move.go_on()
    (status, out, err), = recover(guests, left)
    alone = box.states()
    if victim == "source":
        assert (status, alone) == (4, {left: "arriving"}), err  # it asks, and never decides
    elif owner == left:
        assert (status, alone) == (0, {left: "running"}), err
    else:
        assert status == 4 and alone.get(left) != "running", (alone, err)
    guests.on(gone)
    settle(guests)
    states = box.states()
    if victim == "source" and owner == gone:
        assert states == {owner: "stopped"}
        guests.exec(owner, "drover-node", "box", "start", box.name)
    else:
        assert states == {owner: "running"}
    until("redis has read its data", lambda: guests.exec(
        CLIENT, "redis-cli", "-h", box.ip4, "ping", check=False).stdout == "PONG\n", 60)
    again = Redis(guests, box.ip4)
    assert again("INCR", "count") == 51
    again.close()


def settle(guests):  # noqa: F811
    """Whatever the first recover cannot settle, the second one does; and then there is nothing left to do."""
    said = recover(guests, *guests.nodes)
    assert {status for status, *_ in said} <= {0, 4}, said
    guests.served()
    for node in guests.nodes:
        (status, out, err), = recover(guests, node)
        assert status == 0, f"recover on {node} ended with {status}:\n{out}{err}"
    assert [(status, out.split()) for status, out, _ in recover(guests, *guests.nodes)] == [(0, ["[]"])] * 2


# Memory that is sent while the box runs


class Writer(threading.Thread):
    """Writes values of 4 KiB to a redis, in batches, at most so many MB/s; every one of them is checked in the end."""

    KEYS, BATCH = 8192, 64

    def __init__(self, lab, box, megabytes_per_s):
        super().__init__(daemon=True)
        self.redis, self.rate = Redis(lab, box.ip4), megabytes_per_s
        self.redis("CONFIG", "SET", "appendonly", "no")  # memory is what this is about
        self.values, self.error, self.rounds = {}, None, 0
        self.ending = threading.Event()
        for start in range(0, self.KEYS, self.BATCH):
            self._write(range(start, start + self.BATCH))
        self.start()

    def _write(self, keys):
        batch = {f"key{key}": os.urandom(2048).hex() for key in keys}
        self.redis.socket.sendall(b"".join(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$4096\r\n%b\r\n" % (len(key), key.encode(), value.encode())
                                           for key, value in batch.items()))
        for _ in batch:
            assert self.redis.answers.readline() == b"+OK\r\n"
        self.values |= batch

    def run(self):
        try:
            while not self.ending.wait(self.BATCH * 4096 / 1e6 / self.rate):
                first = self.rounds * self.BATCH % 2048  # the same 8 MB again and again
                self._write(range(first, first + self.BATCH))
                self.rounds += 1
        except BaseException as problem:  # told to the test by finish()
            self.error = problem

    def finish(self):
        before = self.rounds
        until("the writer goes on", lambda: self.error or self.rounds > before + 2, timeout=60)
        self.ending.set()
        self.join(60)
        assert self.error is None, repr(self.error)
        wrong = [key for key, value in self.values.items() if self.redis("GET", key) != value.encode()]
        assert not wrong, f"{len(wrong)} of {len(self.values)} values are lost: {wrong[:5]}"
        self.redis.close()


HUGE = 2 << 20
TOUCHES = """my $x = chr(1) x (64 * %d); open F, ">/filled"; close F;
while (1) { for my $page (0 .. 63) { substr($x, $page * %d + 12345, 1) = "a"; select undef, undef, undef, 0.02 } }""" % (HUGE, HUGE)


def test_small_writes_into_huge_pages(guests, make_box):  # noqa: F811
    """With Debian's `always`: a byte in each of them is written to again and again. Sent is what was written to, and not the
    two megabytes around it."""
    for node in guests.nodes:
        guests.sh(node, "echo always >/sys/kernel/mm/transparent_hugepage/enabled")
    box = make_box("huge", "redis", 28).answers(6379)
    box.exec("sh", "-c", f"setsid perl -e '{TOUCHES}' </dev/null >/dev/null 2>&1 & until [ -e /filled ]; do sleep 0.1; done; sleep 0.5")
    huge = int(guests.sh("node1", "awk '/^AnonHugePages/ {print $2}' /proc/$(pgrep -x perl)/smaps_rollup"))
    assert huge << 10 > 48 * HUGE
    report = box.migrate("--mode", "precopy", "--max-downtime", "10000")
    rounds = [phase["bytes"] for phase in report["phases"] if re.fullmatch(r"memory \d+", phase["name"])]
    assert rounds[0] > 64 * HUGE
    # 64 pages in 1.3 s. As huge pages that would be 100 MB a second.
    assert report["dirty_rate"] < 8 << 20, report
    assert sum(rounds[1:]) < 4 << 20, report
    assert guests.sh("node2", "pgrep -x perl")


def test_of_a_large_file_what_was_written_is_read(guests, make_box):  # noqa: F811
    """Debian's kernel, too, tells which blocks those are."""
    box = make_box("based", "redis", 29).answers(6379)
    database = Database(box, 64 << 20)
    result = guests.exec("node1", "drover-node", "-v", "--json", "box", "migrate", box.name, "--to", "node2", "--max-downtime",
                         "60000", timeout=120)
    read = [read for _, _, read in rounds_of(result.stderr)]
    print({phase["name"]: phase["ms"] for phase in json.loads(result.stdout)["phases"]}, read)
    assert read[0] >= 64 << 20
    assert sum(read[-2:]) < 24 << 20
    until("the source has let go", lambda: box.node() == "node2", timeout=20)
    database.check()


@pytest.mark.parametrize("pages", ["madvise", "never"])
@pytest.mark.parametrize("mode", MODES[1:])
def test_write_load(guests, make_box, mode, pages):  # noqa: F811
    """With `madvise` its memory is gathered into huge pages; with Debian's `always` redis wants none."""
    for node in guests.nodes:
        guests.sh(node, f"echo {pages} >/sys/kernel/mm/transparent_hugepage/enabled")
    box = make_box("written", "redis", 24).answers(6379)
    writer = Writer(guests, box, megabytes_per_s=2)
    for number in range(10):  # less than 64 MB are not gathered
        box.exec("sh", "-c", f"head -c 12000000 /dev/zero | redis-cli -x set filler:{number}")
    report = box.migrate("--mode", mode, *(["--max-downtime", "10000"] if mode == "precopy" else []))
    assert (report["mode"], report["outcome"]) == (mode, "moved")
    gathered = next(phase["bytes"] for phase in report["phases"] if phase["name"] == "gather")
    assert gathered > 32 << 20 if pages == "madvise" else gathered == 0, report["phases"]
    if mode == "precopy":
        rounds = [phase for phase in report["phases"] if re.fullmatch(r"memory \d+", phase["name"])]
        assert rounds[0]["bytes"] > Writer.KEYS * 4096  # all of it
        # What was written during the last one: huge pages do not make of one write two megabytes.
        assert report["dirty_rate"] * rounds[-1]["ms"] / 1000 < rounds[0]["bytes"] / 2, report
    writer.finish()
