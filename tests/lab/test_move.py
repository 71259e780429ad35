"""A box moves between two nodes while it is in use, and nobody notices."""

import contextlib
import hashlib
import json
import operator
import os
import re
import socket
import stat
import threading
import time

import pytest
from conftest import ROOT, command_line, lines, until
from moves import Box, Counter, Halted, increments_on_disk, nothing_remains, processes, started_processes

REPORT = ["box", "from", "to", "mode", "outcome", "epoch", "freeze_ms", "total_ms", "wire_bytes", "streams", "rounds", "bytes",
          "bandwidth", "dirty_rate", "predicted", "phases"]


@pytest.fixture
def make_box(lab, templates, before):
    """make_box(NAME, TEMPLATE, NUMBER) starts a box on node1; it is gone after the test."""
    made = []

    def make(name, template, number, node="node1"):
        box = Box(lab, name, template, number)
        made.append(box)
        return box.start(node)

    yield make
    lab.mend()
    for box in made:
        box.destroy()


@pytest.fixture
def before(lab):
    """All that there is in the lab before the test's boxes."""
    return lab.inventory()


@pytest.mark.limit(120)
def test_redis_client_sees_no_error(lab, make_box, before):
    box = make_box("counted", "redis", 20).answers(6379)
    old = box.show()
    with_v4, with_v6 = Counter(lab, box.ip4), Counter(lab, box.ip6, "count6")
    report = box.migrate()
    with_v4.check()
    with_v6.check()
    nothing_remains(lab, box, "node1", before)

    assert list(report) == REPORT
    assert [report[key] for key in REPORT[:6]] == ["counted", "node1", "node2", "precopy", "moved", old["epoch"] + 1]
    assert 0 < report["freeze_ms"] < report["total_ms"]
    assert report["wire_bytes"] > 0
    assert all(list(phase) == ["name", "ms", "bytes"] for phase in report["phases"])
    new = box.show()
    for key in ("name", "template", "addresses", "mac", "gateways", "layers", "id_base"):
        assert new[key] == old[key], key
    assert new["epoch"] == old["epoch"] + 1

    acknowledged = with_v4.finish() + with_v6.finish()
    assert increments_on_disk(box) >= acknowledged


@pytest.mark.limit(240)
def test_ten_times_back_and_forth(lab, make_box, before):
    box = make_box("shuttle", "redis", 21).answers(6379)
    client = Counter(lab, box.ip4)
    for turn in range(10):
        report = box.migrate()
        assert report["epoch"] == box.show()["epoch"] == turn + 2
        client.check()
        nothing_remains(lab, box, box.other(), before)
    acknowledged = client.finish()
    assert increments_on_disk(box) >= acknowledged


class Postgres:
    """A client of the db template that notes each commit that was acknowledged: a table of ACCOUNTS numbers,
    and transactions that take from one and give to another."""

    ACCOUNTS = 20

    def __init__(self, lab, host):
        self.lab, self.host = lab, host
        until("PostgreSQL has started", self._is_up, timeout=40)  # it listens before that
        self.run("create table account (id int primary key, amount int not null)",
                 f"insert into account select n, 1000 from generate_series(1, {self.ACCOUNTS}) n",
                 "create table log (id int primary key)")
        self.expected = {n: 1000 for n in range(1, self.ACCOUNTS + 1)}
        self.done, self.ending = 0, False
        self.psql = lab.popen("client", "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", host,
                              "-U", "postgres", "postgres")
        self.thread = threading.Thread(target=self._transfer, daemon=True)
        self.thread.start()

    def run(self, *statements):
        words = [word for statement in statements for word in ("-c", statement)]
        return self.lab.exec("client", "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.host,
                             "-U", "postgres", "postgres", *words).stdout

    def _is_up(self):
        with contextlib.suppress(AssertionError):
            return self.run("select 1")

    def _transfer(self):
        while not self.ending:
            number = self.done + 1
            giver, taker = number % self.ACCOUNTS + 1, number * 7 % self.ACCOUNTS + 1
            self.psql.stdin.write(f"begin; update account set amount = amount - 1 where id = {giver}; "
                                  f"update account set amount = amount + 1 where id = {taker}; "
                                  f"insert into log values ({number}); commit;\n\\echo {number}\n")
            self.psql.stdin.flush()
            if self.psql.stdout.readline() != f"{number}\n":
                return  # finish() tells what it said
            self.expected[giver] -= 1
            self.expected[taker] += 1
            self.done = number

    def check(self):
        before = self.done
        until("transactions go on", lambda: not self.thread.is_alive() or self.done > before + 3, timeout=60)
        assert self.thread.is_alive(), self.psql.stderr.read()

    def finish(self):
        self.check()
        self.ending = True
        self.thread.join(60)
        amounts = dict(map(int, line.split("|")) for line in self.run("select id, amount from account").split())
        assert amounts == self.expected
        assert self.run("select count(*), max(id) from log").strip() == f"{self.done}|{self.done}"


@pytest.mark.limit(240)
def test_postgresql_loses_no_transaction(lab, make_box, tmp_path):
    box = make_box("db", "db", 22).answers(5432)
    client = Postgres(lab, box.ip4)
    client.check()
    # From the box's own template: the client has none.
    pgbench = tmp_path / "pgbench"
    pgbench.write_bytes(lab.node("node1").path("/run/drover/boxes/db/root/usr/lib/postgresql/17/bin/pgbench").read_bytes())
    pgbench.chmod(0o755)
    pgbench = [pgbench, "-h", box.ip4, "-U", "postgres", "postgres"]
    lab.exec("client", *pgbench, "-i", "-s", "1", "-q")
    bench = lab.popen("client", *pgbench, "-c", "2", "-T", "8", "-n", "--max-tries=1")
    time.sleep(1)
    box.migrate()
    box.migrate()
    client.check()
    output, errors = bench.communicate(timeout=120)
    assert bench.returncode == 0, errors
    assert "number of failed transactions: 0 (0.000%)" in output
    processed = int(re.search(r"transactions actually processed: (\d+)", output)[1])
    # pgbench writes one line of history for each, and all sums are the same.
    history = box.lab.exec("client", "psql", "-X", "-A", "-t", "-h", box.ip4, "-U", "postgres", "postgres", "-c",
                           "select count(*), sum(delta), (select sum(abalance) from pgbench_accounts), "
                           "(select sum(bbalance) from pgbench_branches) from pgbench_history").stdout.strip().split("|")
    assert int(history[0]) == processed > 0
    assert history[1] == history[2] == history[3]
    client.finish()


@pytest.mark.limit(180)
def test_download_arrives_whole(lab, make_box):
    box = make_box("web", "web", 23).answers(80)
    box.exec("sh", "-c", "head -c 1048576 /dev/urandom > /tmp/piece; for i in $(seq 24); do cat /tmp/piece; done > /var/www/html/large")
    content = (box.upper() / "var/www/html/large").read_bytes()
    assert len(content) == 24 << 20
    connection = lab.connect("client", box.ip4, 80, timeout=60)
    connection.sendall(b"GET /large HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
    received = bytearray()

    def receive(most):
        while len(received) < most and (piece := connection.recv(min(65536, most - len(received)))):
            received.extend(piece)

    receive(2 << 20)
    mover = threading.Thread(target=box.migrate)
    mover.start()
    while mover.is_alive():  # slowly, so that it lasts longer than the move
        receive(len(received) + 65536)
        time.sleep(0.05)
    receive(1 << 30)
    mover.join()
    connection.close()
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert hashlib.sha256(body).digest() == hashlib.sha256(content).digest()
    assert box.node() == "node2"


@pytest.mark.limit(300)
def test_whole_server(lab, make_box, before):
    """sysvinit, cron, D-Bus, rsyslog, sshd, nginx, PostgreSQL and redis in one box."""
    box = make_box("server", "full", 24)
    ports = {22: b"SSH-2.0", 80: b"HTTP/1.1 200", 5432: b"", 6379: b"+PONG"}
    for port in ports:
        box.answers(port)
    until("cron and D-Bus run", lambda: {"cron", "dbus-daemon", "rsyslogd"} <= set(processes(box)), timeout=40)
    running = set(started_processes(box))
    client = Counter(lab, box.ip4)
    shell = lab.connect("client", box.ip4, 22, timeout=60)
    assert shell.recv(100).startswith(b"SSH-2.0")
    box.migrate()
    client.check()
    assert running <= set(processes(box))
    for port, greeting in ports.items():
        connection = lab.connect("client", box.ip4, port, timeout=60)
        if port in (80, 6379):
            connection.sendall(b"PING\r\n" if port == 6379 else b"GET / HTTP/1.0\r\n\r\n")
        assert not greeting or connection.recv(1000).startswith(greeting)
        connection.close()
    assert lab.exec("client", "psql", "-X", "-A", "-t", "-h", box.ip4, "-U", "postgres", "postgres",
                    "-c", "select 6 * 7").stdout == "42\n"
    shell.sendall(b"SSH-2.0-test\r\n")  # the connection from before the move
    assert shell.recv(1000)
    shell.close()
    box.exec("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.ListNames")
    box.exec("logger", "after the move")
    until("rsyslog writes", lambda: "after the move" in (box.upper() / "var/log/syslog").read_text(), timeout=20)
    client.finish()
    nothing_remains(lab, box, "node1", before)


@pytest.mark.limit(120)
def test_layers_come_from_the_source(lab, make_box):
    box = make_box("carrier", "redis", 25).answers(6379)
    layers = [digest.removeprefix("sha256:") for digest in box.show()["layers"]]
    store = lab.state / "node2/layers/sha256"
    for digest in layers:
        os.rename(store / f"{digest}.erofs", store.parent / f"{digest}.away")
    os.rename(lab.state / "node2/templates/redis", lab.state / "node2/redis.away")
    client = Counter(lab, box.ip4)
    try:
        report = box.migrate()
        client.check()
        sent = next(phase for phase in report["phases"] if phase["name"] == "layers")
        assert sent["bytes"] == sum((store.parent / f"{digest}.away").stat().st_size for digest in layers)
        for digest in layers:
            assert hashlib.sha256((store / f"{digest}.erofs").read_bytes()).hexdigest() == digest
        assert next(phase for phase in box.migrate()["phases"] if phase["name"] == "layers")["bytes"] == 0
        client.finish()
    finally:
        for digest in layers:
            (store.parent / f"{digest}.away").unlink()


@pytest.mark.limit(120)
def test_layers_are_ready_before_the_freeze(lab, make_box, before, tmp_path):
    """Mounted, and what the box's programs are made of is in memory: no restore waits for the destination's disk."""
    box = make_box("early", "redis", 26).answers(6379)
    layers = [digest.removeprefix("sha256:") for digest in box.show()["layers"]]
    there = box.other()
    program, library = box.exec("readlink", "-f", "/usr/bin/redis-server", "/lib/x86_64-linux-gnu/libc.so.6").stdout.split()
    lab.exec(there, "sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches")
    move = Halted(box, "source.rounds", tmp_path)
    try:
        mounts = lab.exec(there, "cat", "/proc/self/mounts").stdout
        assert [digest for digest in layers if f" /run/drover/layers/{digest} erofs " in mounts] == layers
        for layer, path in ((layers[0], library), (layers[-1], program)):
            # While the box still runs; what reads it is no step of the move that anything waits for.
            until(f"{path} is in memory", lambda: operator.ge(*map(int, lab.exec(
                there, "fincore", "--bytes", "--noheadings", "--output", "RES,SIZE",
                f"/run/drover/layers/{layer}{path}").stdout.split())))
    finally:
        move.kill("destination")
        assert move.go_on() == 1
    lab.exec(there, "drover-node", "recover")
    nothing_remains(lab, box, there, before)


@pytest.mark.limit(120)
def test_own_firewall_and_routes(lab, make_box):
    """What the box has set up in its own network namespace is its own, wherever it runs."""
    box = make_box("routed", "debian-13", 26).answers(22)
    box.exec("nft", "add table inet own; add chain inet own in { type filter hook input priority 0; }; "
                    "add rule inet own in tcp dport 8888 counter drop")
    box.exec("ip", "route", "add", "192.0.2.0/24", "via", "10.77.0.250")
    box.exec("ip", "-6", "route", "add", "2001:db8::/64", "via", "fd77::250")
    box.exec("ip", "link", "add", "inner", "type", "bridge")
    box.exec("ip", "addr", "add", "198.51.100.1/24", "dev", "eth0")
    look = [["nft", "list", "ruleset"], ["ip", "-o", "link"], ["ip", "-o", "addr"], ["ip", "route"],
            ["ip", "-6", "route"], ["ip", "rule"]]
    old = [seen(box, words) for words in look]
    for _ in range(2):
        box.migrate()
        for words, was in zip(look, old):
            assert "\n".join(seen(box, words)) == "\n".join(was)


@pytest.mark.limit(120)
def test_users_of_the_box_ping(lab, make_box):
    box = make_box("pinging", "debian-13", 31).answers(22)
    for _ in range(2):
        box.exec("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "ping", "-c1", "-W10", lab.address("client"))
        box.migrate()


@pytest.mark.limit(120)
def test_process_numbers_go_on(lab, make_box):
    """A number that was in use is not given out again soon: journald and who keeps a pid file rely on it."""
    box = make_box("pids", "shell", 28)

    def number():
        return int(box.exec("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do true | true; done; sh -c 'echo $$'").stdout)

    seen = [number(), number()]
    box.migrate()
    seen.append(number())
    box.migrate()
    seen.append(number())
    assert seen == sorted(seen) and seen[-1] - seen[0] < 200, seen


@pytest.mark.limit(120)
def test_what_is_started_by_exec_after_a_move_moves_as_well(lab, make_box):
    """CRIU gives the box a time namespace, and clocks that go on: whoever comes in later has the same."""
    box = make_box("entered", "redis", 35).answers(6379)
    box.migrate()
    box.exec("sh", "-c", "setsid sleep 4711 </dev/null >/dev/null 2>&1 & sleep 0.2")
    pids = lines(lab.group / "node2/drover/entered/cgroup.procs")
    [sleeps] = [pid for pid in pids if command_line(pid) == "sleep 4711"]
    assert {os.readlink(f"/proc/{pid}/ns/time") for pid in pids} == {os.readlink(f"/proc/{sleeps}/ns/time")} \
        != {os.readlink("/proc/self/ns/time")}
    now = processes(box)
    box.migrate()
    assert processes(box) == now


@pytest.mark.limit(120)
def test_bridge_without_ports(lab, make_box):
    """As Docker has one. Its routes say that its link is down, which no route can be made with."""
    box = make_box("bridged", "debian-13", 29).answers(22)
    box.exec("ip", "link", "add", "inner", "type", "bridge")
    box.exec("ip", "addr", "add", "198.51.100.1/24", "dev", "inner")
    box.exec("ip", "addr", "add", "2001:db8::1/64", "dev", "inner")
    box.exec("ip", "link", "set", "inner", "up")
    for _ in range(3):
        box.migrate()
        for family, network in (("-4", "198.51.100.0/24"), ("-6", "2001:db8::/64")):
            assert network in box.exec("ip", family, "route", "show", "dev", "inner").stdout
    assert "linkdown" in box.exec("ip", "route").stdout


def seen(box, words):
    """What a command in the box prints, without what differs from one moment to the next."""
    text = box.exec(*words).stdout
    text = re.sub(r"counter packets \d+ bytes \d+", "counter", text)
    text = re.sub(r"@if\d+|link-netnsid \d+|tentative (?=proto kernel_ll)", "", text)
    return sorted(line.strip() for line in text.splitlines())


@pytest.mark.limit(120)
def test_warnings_of_the_other_node_are_told(lab, make_box, tmp_path):
    box = make_box("warned", "shell", 41)
    rsh = tmp_path / "rsh"
    rsh.write_text('#!/bin/sh\nprintf "warning: a \\033[1mstrange\\n" >&2\nexec ssh "$@"\n')
    rsh.chmod(0o755)
    result = box.migrate("--mode", "stop", "--rsh", str(rsh), check=False)
    assert result.returncode == 0, result.stderr
    said = [json.loads(line) for line in result.stderr.splitlines()]
    assert {"warning": "node2: a  [1mstrange"} in said, said


@pytest.mark.limit(120)
def test_two_boxes_at_once(lab, make_box):
    first, second = make_box("one", "redis", 27), make_box("two", "redis", 28, node="node2")
    clients = [Counter(lab, box.answers(6379).ip4) for box in (first, second)]
    failures = []

    def move(box):
        try:
            for _ in range(2):
                box.migrate()
        except BaseException as problem:  # told below
            failures.append(problem)

    movers = [threading.Thread(target=move, args=[box]) for box in (first, second)]
    for mover in movers:
        mover.start()
    for mover in movers:
        mover.join()
    assert not failures
    assert (first.node(), second.node()) == ("node1", "node2")
    for client in clients:
        client.finish()


@pytest.mark.limit(180)
def test_who_is_about_to_connect(lab, make_box):
    """One connection after the other, each with a question: whenever the box is frozen, it is likely that one has just begun."""
    box = make_box("dialled", "redis", 46).answers(6379)
    ended, failures, answers = threading.Event(), [], 0

    def dial():
        nonlocal answers
        while not ended.is_set():
            try:
                with lab.connect("client", box.ip4, 6379, timeout=30) as connection:
                    connection.sendall(b"PING\r\n")
                    assert connection.recv(100) == b"+PONG\r\n"
                answers += 1
            except (OSError, AssertionError) as failure:
                failures.append(repr(failure))

    dialler = threading.Thread(target=dial)
    dialler.start()
    for _ in range(8):
        box.migrate()
    ended.set()
    dialler.join()
    assert answers > 1000 and not failures, (answers, failures)
