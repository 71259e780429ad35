"""A box moves whose memory takes a connection of its own: before it (--mode precopy), after it (postcopy) or both
(hybrid)."""

import contextlib
import ctypes
import errno
import json
import os
import signal
import socket
import time

import pytest
from boxes import inside_program
from conftest import command_line, lines, until
from moves import (DROVER, Box, Counter, Halted, check_filled, fill, increments_on_disk, members, nothing_remains, parent,
                   processes, recover, served, started_processes, state)
from test_move import Postgres

MODE = ("--mode", "postcopy", "--force")


@pytest.fixture(params=["postcopy", "precopy", "hybrid"])
def mode(request):
    return request.param


@pytest.fixture
def before(lab):
    """All that there is in the lab before the test's boxes."""
    return lab.inventory()


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
    for node in lab.nodes:  # where a test has failed
        lab.exec(node, "drover-node", "recover", check=False, timeout=100)
    for box in made:
        box.destroy()


def bytes_of(report, phase):
    return next(entry["bytes"] for entry in report["phases"] if entry["name"] == phase)


@pytest.mark.limit(240)
def test_redis_under_load_there_and_back_three_times(lab, make_box, before, mode):
    box = make_box("light", "redis", 40).answers(6379)
    clients = [Counter(lab, box.ip4), Counter(lab, box.ip6, "count6")]
    fill(clients[0].other(), 48)
    for turn in range(6):
        report = box.migrate("--mode", mode)
        assert (report["mode"], report["outcome"], report["epoch"]) == (mode, "moved", turn + 2)
        if mode == "postcopy":
            assert bytes_of(report, "memory") > 48 << 20
        else:
            assert bytes_of(report, "memory 0") > 48 << 20
            assert bytes_of(report, "memory") < 24 << 20  # what was written since, and is not known to be the same
        assert bytes_of(report, "images") < 8 << 20  # the memory was not in them
        assert report["wire_bytes"] < 0.8 * report["bytes"]  # it was packed
        for client in clients:
            client.check()
        nothing_remains(lab, box, box.other(), before)
        assert box.show()["epoch"] == turn + 2
    check_filled(clients[0].other(), 48)
    acknowledged = sum(client.finish() for client in clients)
    assert increments_on_disk(box) >= acknowledged


@pytest.mark.limit(120)
@pytest.mark.parametrize("point", ["source.frozen", "source.dumped", "destination.network", "source.given"])
def test_no_port_is_opened(lab, make_box, before, tmp_path, point):
    """CRIU's page server and its lazy pages would have one each."""
    box = make_box("portless", "redis", 83).answers(6379)

    def ports():
        return {node: sorted({line.split()[4] for line in lab.exec(node, "ss", "-Hltun").stdout.splitlines()}) for node in lab.nodes}

    idle = ports()
    move = Halted(box, point, tmp_path, *MODE)
    assert ports() == idle and all(port.endswith(":22") for found in idle.values() for port in found), idle
    assert move.go_on() == 0, move.err


@pytest.mark.limit(120)
def test_over_three_connections(lab, make_box, before, mode):
    box = make_box("threefold", "redis", 79).answers(6379)
    client = Counter(lab, box.ip4)
    fill(client.other(), 48)
    for _ in range(2):
        report = box.migrate("--mode", mode, "--streams", "3")
        assert bytes_of(report, "memory" if mode == "postcopy" else "memory 0") > 48 << 20
        assert report["streams"] == 3
        client.check()
        check_filled(client.other(), 48)
        nothing_remains(lab, box, box.other(), before)
    client.finish()


@pytest.mark.exhaustive
@pytest.mark.limit(1000)
def test_round_that_takes_longer_than_either_end_waits(lab, make_box, before):
    """128 MB that pack to half, over 1.6 Mbit/s: no end waits longer than five minutes for a message."""
    box = make_box("patient", "redis", 83).answers(6379)
    box.exec("redis-cli", "config", "set", "appendonly", "no")  # only the memory is large
    client = Counter(lab, box.ip4)
    fill(client.other(), 128)
    lab.link("node2", "slow", "1600kbit")
    report = box.migrate("--mode", "precopy", "--max-downtime", "10000", timeout=900)
    assert next(phase["ms"] for phase in report["phases"] if phase["name"] == "memory 0") > 300_000
    lab.link("node2", "up")
    client.check()
    check_filled(client.other(), 128)
    client.finish()
    nothing_remains(lab, box, box.other(), before)


@pytest.mark.limit(240)
def test_postgresql_during_pgbench(lab, make_box, before, tmp_path, mode):
    box = make_box("dblazy", "db", 41).answers(5432)
    client = Postgres(lab, box.ip4)
    client.check()
    pgbench = tmp_path / "pgbench"
    pgbench.write_bytes(lab.node("node1").path("/run/drover/boxes/dblazy/root/usr/lib/postgresql/17/bin/pgbench").read_bytes())
    pgbench.chmod(0o755)
    pgbench = [pgbench, "-h", box.ip4, "-U", "postgres", "postgres"]
    lab.exec("client", *pgbench, "-i", "-s", "1", "-q")
    # -C: a connection, and so a process forked in the box, for each transaction.
    benches = [lab.popen("client", *pgbench, "-c", "1", "-T", "10", "-n", "--max-tries=1", *options) for options in ([], ["-C"])]
    time.sleep(1)
    for _ in range(2):
        box.migrate("--mode", mode)
    client.check()
    for bench in benches:
        output, errors = bench.communicate(timeout=120)
        assert bench.returncode == 0, errors
        assert "number of failed transactions: 0 (0.000%)" in output
    sums = lab.exec("client", "psql", "-X", "-A", "-t", "-h", box.ip4, "-U", "postgres", "postgres", "-c",
                    "select sum(delta), (select sum(abalance) from pgbench_accounts), "
                    "(select sum(bbalance) from pgbench_branches) from pgbench_history").stdout.strip().split("|")
    assert sums[0] == sums[1] == sums[2]
    client.finish()
    nothing_remains(lab, box, "node2", before)


@pytest.mark.limit(300)
def test_whole_server(lab, make_box, before, mode):
    box = make_box("wholelazy", "full", 42)
    for port in (22, 80, 5432, 6379):
        box.answers(port)
    until("cron and D-Bus run", lambda: {"cron", "dbus-daemon", "rsyslogd"} <= set(processes(box)), timeout=40)
    running = set(started_processes(box))
    client = Counter(lab, box.ip4)
    shell = lab.connect("client", box.ip4, 22, timeout=60)
    assert shell.recv(100).startswith(b"SSH-2.0")
    for _ in range(2):
        box.migrate("--mode", mode)
        client.check()
        assert running <= set(processes(box))
        nothing_remains(lab, box, box.other(), before)
    shell.sendall(b"SSH-2.0-test\r\n")  # the connection from before the moves
    assert shell.recv(1000)
    shell.close()
    assert lab.exec("client", "psql", "-X", "-A", "-t", "-h", box.ip4, "-U", "postgres", "postgres",
                    "-c", "select 6 * 7").stdout == "42\n"
    box.exec("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.ListNames")
    client.finish()


@pytest.mark.limit(240)
def test_memory_map_changes_while_memory_arrives(lab, make_box, before, tmp_path, mode):
    """tests/lab/inside.cc forks, maps, moves and unmaps all the time, and looks at every page that it has."""
    box = make_box("churning", "debian-13", 43).answers(22)
    program = box.upper() / "inside"
    program.write_bytes(inside_program(tmp_path))
    program.chmod(0o755)
    # Not by `exec`, which a box with would not be moved: its own process 1 has it for a child.
    box.exec("sh", "-c", "setsid /inside churn 64 >/churned </dev/null 2>&1 & sleep 0.2")
    until("it has begun", lambda: turns(box) > 3, timeout=30)
    for _ in range(3):
        # Slowly, so that it has the time to change what is missing.
        lab.link("node2", "slow", "200mbit")
        report = box.migrate("--mode", mode, timeout=200)
        lab.link("node2", "up")
        assert bytes_of(report, "memory" if mode == "postcopy" else "memory 0") > 16 << 20
        now = turns(box)
        until("it goes on", lambda: turns(box) > now + 3, timeout=60)
    assert "wrong" not in (box.upper() / "churned").read_text()


def turns(box):
    text = (box.upper() / "churned").read_text()
    assert "wrong" not in text, text[-500:]
    return text.count("\n")


# --- what may fail while the memory is on its way


class Following:
    """A move over a slow link, at the moment when the box runs at the destination, and memory is still missing."""

    MEGABYTES = 48

    def __init__(self, lab, box, before, rate="10mbit"):
        self.lab, self.box, self.before = lab, box, before
        self.client = Counter(lab, box.ip4)
        fill(self.client.other(), self.MEGABYTES)
        self.source, self.destination = box.node(), box.other()
        # Slow only from here on: its files are there, its memory is not.
        self.child = lab.popen(self.source, "env", "DROVER_PAUSE_AT=source.prepared", "drover-node", "--json", "box",
                               "migrate", box.name, "--to", self.destination, *MODE)
        until("the box is restored", lambda: self.child.poll() is not None or state(self.child.pid) == "T", timeout=90)
        lab.link(self.destination, "slow", rate)
        os.kill(self.child.pid, signal.SIGCONT)
        until("the box runs at the destination", self._runs_there, timeout=90)
        assert self.child.poll() is None, self.child.communicate()
        assert self.box.states() == {self.source: "given", self.destination: "settling"}
        self.guard = self.find("drover-node guard")
        assert self.guard, self.child.poll()
        self.bringer = parent(self.guard)

    def _runs_there(self):
        assert self.child.poll() is None, self.child.communicate()
        there = self.lab.node(self.destination).path(f"{DROVER}/boxes/{self.box.name}")
        return '"mine"' in "".join(lines(there / "move.journal"))

    def journal_there(self):
        return self.lab.node(self.destination).path(f"{DROVER}/boxes/{self.box.name}/move.journal").exists()

    def find(self, words):
        return next((pid for pid in members(self.lab, self.destination) if command_line(pid).startswith(words)), None)

    def quick(self):
        self.lab.link(self.destination, "up")

    def end(self, timeout=120):
        """The exit status of the source's command."""
        self.out, self.err = self.child.communicate(timeout=timeout)
        return self.child.returncode

    def arrived(self, timeout=120):
        until("all memory is there", lambda: not self.journal_there(), timeout=timeout)
        until("the guard ends", lambda: not self.find("drover-node guard"))

    def settle(self):
        served(self.lab, self.source)
        for node, (out, err), status in recover(self.lab, [self.source, self.destination]):
            assert status == 0, f"recover on {node} ended with {status}:\n{out}{err}"
        for node, (out, err), status in recover(self.lab, [self.source, self.destination]):
            assert (status, out.split()) == (0, ["[]"]), f"recover on {node} found something again:\n{out}{err}"
        assert self.box.states() == {self.destination: "running"}
        nothing_remains(self.lab, self.box, self.source, self.before)

    def whole(self):
        """The client has seen nothing, and the memory is what it was."""
        self.client.check(timeout=90)
        check_filled(self.client.other(), self.MEGABYTES)
        acknowledged = self.client.finish()
        assert increments_on_disk(self.box) >= acknowledged

    def from_disk(self):
        """The box was started anew; everything that was acknowledged is there."""
        self.client.ending = True
        with contextlib.suppress(OSError):  # the box's end may have closed it
            self.client.redis.socket.shutdown(socket.SHUT_RDWR)
        self.client.join(60)
        acknowledged = self.client.value
        self.box.answers(6379)
        anew = Counter(self.lab, self.box.ip4)
        assert anew.value > acknowledged
        check_filled(anew.other(), self.MEGABYTES)
        anew.finish()


@pytest.fixture
def following(lab, make_box, before, request):
    def follow(name, number, **options):
        box = make_box(name, "redis", number).answers(6379)
        return Following(lab, box, before, **options)
    return follow


def broken_sessions_end(lab, seconds):
    """TCP tells the other end of a broken connection with its next retransmission, which is as late again as the hole
    was long, and two minutes at the most."""
    until("the broken connection's sshd has ended",
          lambda: not any("sshd-session" in found for found in lab.inventory()), seconds)


@pytest.mark.limit(300)
def test_black_hole_for_twenty_seconds(lab, following):
    move = following("hole", 44)
    lab.link(move.destination, "drop")
    time.sleep(20)
    move.quick()
    status = move.end()
    for node, (out, err), status_there in recover(lab, [move.source]):  # too early, perhaps: it destroys nothing
        assert status_there in (0, 4), (out, err)
    move.arrived()
    assert status == 4, move.err
    said = json.loads(move.err.splitlines()[-1])
    assert "the connection for its memory broke" in said["error"]
    assert "drover-node recover" in said["hint"]
    assert json.loads(move.out)["outcome"] == "failed"
    move.settle()
    move.whole()
    broken_sessions_end(lab, 90)


@pytest.mark.limit(300)
def test_bringer_is_killed(lab, following):
    move = following("lost", 45)
    os.kill(move.bringer, signal.SIGKILL)
    group = lab.group / move.destination / "drover" / move.box.name
    until("the guard kills the box", lambda: not lines(group / "cgroup.procs"))
    until("the guard has ended", lambda: not lines(f"/proc/{move.guard}/cmdline"))
    move.quick()
    assert move.end() == 4, move.err
    for node, (out, err), status in recover(lab, [move.destination]):
        assert status == 0, (out, err)
    move.settle()
    move.from_disk()


@pytest.mark.limit(300)
def test_source_command_is_killed(lab, following):
    move = following("orphan", 46)
    move.child.kill()
    move.child.wait(10)
    move.quick()
    move.arrived()
    move.settle()
    move.whole()


@pytest.mark.limit(300)
def test_connection_is_cut_again_and_again(lab, following):
    """Whatever carries the memory is killed, on the side of the destination or the source."""
    move = following("frayed", 47)
    for turn in range(4):
        node = (move.source, move.destination)[turn % 2]
        for pid in members(lab, node):
            if command_line(pid).startswith("ssh ") and parent(pid) in (move.child.pid, move.bringer):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(1.5)
    move.quick()
    move.end()
    move.arrived()
    move.settle()
    move.whole()


@pytest.mark.limit(600)
def test_source_loses_power(lab, following):
    move = following("dark", 48)
    lab.off(move.source)
    group = lab.group / move.destination / "drover" / move.box.name
    until("the memory is given up", lambda: not lines(group / "cgroup.procs"), timeout=150)
    lab.link(move.destination, "up")
    for node, (out, err), status in recover(lab, [move.destination]):
        assert status == 0, (out, err)
    assert json.loads(out)[0]["what"] == f"box {move.box.name} runs here since its move from {move.source}"
    lab.on(move.source)
    move.settle()
    move.from_disk()
    broken_sessions_end(lab, 150)


class Unwanted(Following):
    """What is still on its way, a process had that has ended: the box has all that it needs, and runs as any other."""

    MEGABYTES = 0

    def __init__(self, lab, box, before):
        box.exec("sh", "-c", "setsid perl -e 'open F, \"/dev/urandom\"; read F, $x, 320 << 20; syswrite STDOUT, \"read\"; sleep' "
                             ">/holds </dev/null 2>&1 & sleep 2")
        until("it has begun", lambda: lines(box.upper() / "holds") == ["read"], timeout=30)
        super().__init__(lab, box, before, rate="100mbit")
        pids = lines(lab.group / self.destination / "drover" / box.name / "cgroup.procs")
        holders = [pid for pid in pids if lines(f"/proc/{pid}/comm") == ["perl"]]
        for pid in pids:
            if pid not in holders:
                touch(int(pid))
        then = resident(holders[0])  # from here on nobody waits, so that more is asked for at once
        until("it is the holder's turn", lambda: resident(holders[0]) > then + (8 << 20))
        lab.link(self.destination, "slow", "4mbit")
        os.kill(int(holders[0]), signal.SIGKILL)
        until("the box has all that it needs", lambda: not self.journal_there(), timeout=20)
        assert self.child.poll() is None and self.find("drover-node receive") == self.bringer

    def check(self, *statuses):
        assert self.end() in statuses, self.err
        assert ("the connection for its memory broke" in self.err) == (self.child.returncode == 4), self.err
        until("nothing is brought any more", lambda: not self.find("drover-node receive"))
        self.quick()
        self.settle()
        self.whole()


def touch(pid):
    """Reads all memory of a process, as it would itself: this waits for what is missing."""
    libc = ctypes.CDLL(None, use_errno=True)
    byte = ctypes.create_string_buffer(1)
    here = (ctypes.c_void_p * 2)(ctypes.addressof(byte), 1)
    for line in lines(f"/proc/{pid}/maps"):
        begin, end = (int(word, 16) for word in line.split()[0].split("-"))
        if line.split()[1].startswith("r") and "[v" not in line:  # vdso, vvar
            for page in range(begin, end, 4096):
                there = (ctypes.c_void_p * 2)(page, 1)
                if libc.process_vm_readv(pid, here, 1, there, 1, 0) != 1 and ctypes.get_errno() != errno.EFAULT:
                    raise OSError(ctypes.get_errno(), "process_vm_readv", pid)


def resident(pid):
    """Bytes."""
    return next(int(line.split()[1]) << 10 for line in lines(f"/proc/{pid}/status") if line.startswith("VmRSS:"))


@pytest.fixture
def unwanted(lab, make_box, before):
    return Unwanted(lab, make_box("unwanted", "redis", 49).answers(6379), before)


@pytest.mark.limit(240)
def test_memory_that_nobody_needs_any_more_comes(unwanted):
    unwanted.check(0)


# Both are killed in tests/crash as well, where nothing is on its way.


@pytest.mark.exhaustive
@pytest.mark.limit(240)
def test_bringer_is_killed_when_the_box_needs_it_no_more(unwanted):
    os.kill(unwanted.bringer, signal.SIGKILL)
    unwanted.check(4)


@pytest.mark.exhaustive
@pytest.mark.limit(240)
def test_source_is_killed_when_the_box_needs_it_no_more(unwanted):
    unwanted.child.kill()
    unwanted.check(-signal.SIGKILL)


@pytest.mark.limit(240)
def test_source_hangs_when_the_box_needs_it_no_more(unwanted):
    """The destination waits for 15 s. What the source has written already comes all the same, and may be all."""
    os.kill(unwanted.child.pid, signal.SIGSTOP)
    until("it is waited for no more", lambda: not unwanted.find("drover-node receive"), timeout=60)
    os.kill(unwanted.child.pid, signal.SIGCONT)
    unwanted.check(0, 4)


@pytest.mark.limit(300)
def test_link_is_cut_when_the_box_needs_it_no_more(lab, unwanted):
    lab.link(unwanted.destination, "drop")
    time.sleep(20)
    unwanted.quick()
    unwanted.check(4)
    broken_sessions_end(lab, 90)
