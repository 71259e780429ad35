"""Boxes with systemd as their init: they start, stop and move with all that systemd does around a server."""

import os
import re
import subprocess
import threading
import time

import pytest
from boxes import Boxes
from conftest import checked, lines, until
from moves import Box, Halted, nothing_remains
from test_move import Postgres, before, make_box  # noqa: F401 (fixtures)

ALICE = 1000
TIMER = """[Timer]
OnActiveSec=0
OnUnitActiveSec=1
AccuracySec=10ms
[Install]
WantedBy=timers.target
"""


class SystemdBox(Box):
    """With a user alice who logs in with a key, and a timer that writes its ticks to a file and to the journal."""

    def __init__(self, lab, name, template, number, key):
        super().__init__(lab, name, template, number)
        self.key = key

    def start(self, node="node1"):
        self.lab.exec(node, "drover-node", "box", "create", self.name, "--template", self.template,
                      "--ip", f"{self.ip4}/24", "--ip", f"{self.ip6}/64")
        put = Boxes(self.lab, node).write
        put(self.name, "/etc/sysusers.d/alice.conf", f"u alice {ALICE} - /home/alice /bin/bash\n")
        put(self.name, "/etc/systemd/system/tick.timer", TIMER)
        put(self.name, "/etc/systemd/system/tick.service",
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'date +%%s.%%N >>/srv/ticks; echo tick $(wc -l </srv/ticks)'\n")
        put(self.name, "/home/alice/.ssh/authorized_keys", self.key.with_suffix(".pub").read_text(), 0o600)
        home = Boxes(self.lab, node).upper(self.name) / "home/alice"
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, ALICE, ALICE)
        wants = Boxes(self.lab, node).upper(self.name) / "etc/systemd/system/timers.target.wants"
        wants.mkdir()
        (wants / "tick.timer").symlink_to("../tick.timer")
        self.lab.exec(node, "drover-node", "box", "start", self.name)
        self.wait_until_up()
        return self

    def wait_until_up(self):
        until("systemd is up", lambda: self.sh("systemctl is-system-running || :") == "running", timeout=60)

    def sh(self, script, **options):
        return self.exec("sh", "-c", script, **options).stdout.strip()

    def state(self):
        """"running", or what has failed and why."""
        failed = self.sh("for unit in $(systemctl --failed --plain --no-legend | cut -d' ' -f1); do "
                         "systemctl status --no-pager -n 20 $unit || :; done")
        return self.sh("systemctl is-system-running || :") + failed

    def ticks(self):
        return [float(line) for line in lines(self.upper() / "srv/ticks")]

    def group(self):
        return self.lab.group / self.node() / "drover" / self.name

    def groups(self):
        """Its control groups, and for each whose it is and which of the box's processes lie in it."""
        found = {}
        for at, _, files in os.walk(self.group()):
            path = os.path.relpath(at, self.group())
            if "tick.service" in path:
                continue  # it comes and goes
            pids = {re.search(r"NSpid:\t\d+\t(\d+)", "\n".join(lines(f"/proc/{pid}/status")))[1]
                    for pid in lines(f"{at}/cgroup.procs")}
            owners = {file: os.stat(f"{at}/{file}").st_uid for file in files} if path != "." else {}
            attributes = {name: os.getxattr(at, name) for name in os.listxattr(at) if name.startswith("user.")}
            found[path] = (os.stat(at).st_uid, owners, attributes, pids)
        return found


@pytest.fixture
def key(tmp_path):
    checked(subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], text=True,
                           capture_output=True, timeout=20))
    return tmp_path / "key"


@pytest.fixture
def make_systemd_box(lab, templates, before, key):
    made = []

    def make(name, template, number):
        made.append(SystemdBox(lab, name, template, number, key))
        return made[-1].start()

    yield make
    lab.mend()
    for box in made:
        box.destroy()


class Shell:
    """alice's shell at a terminal, over one ssh connection."""

    def __init__(self, lab, box):
        self.ssh = lab.popen("client", "ssh", "-tt", "-i", str(box.key), "-o", "BatchMode=yes", "-o",
                             "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
                             f"alice@{box.ip4}")
        self.typed = 0
        self.type("stty -echo; exec env PS1= bash --norc --noediting")
        self.ask(":")  # the greeting, and the echo until then

    def type(self, command):
        self.ssh.stdin.write(command + "\n")
        self.ssh.stdin.flush()

    def ask(self, command):
        """What a command prints."""
        self.typed += 1
        self.type(f"{command}; echo end-$(({self.typed} + 1000))-")
        said = ""
        while f"end-{self.typed + 1000}-" not in said:
            line = self.ssh.stdout.readline()
            assert line, f"the connection ended: {said}{self.ssh.stderr.read()}"
            said += line.replace("\r", "")
        return said.rpartition(f"end-{self.typed + 1000}-")[0].strip()


@pytest.mark.limit(240)
def test_starts_and_stops(lab, make_systemd_box, before):
    box = make_systemd_box("sd", "debian-13-systemd", 60)
    assert box.state() == "running"
    assert box.sh("cat /proc/1/comm") == "systemd"
    assert box.sh("systemd-detect-virt --container") != "none"
    # Its groups are its own, below one that is not.
    assert "system.slice/ssh.service" in box.groups()
    id_base = int(box.show()["id_base"])
    assert os.stat(box.group()).st_uid == os.stat(box.group() / "cgroup.procs").st_uid == id_base
    for file in ("cgroup.freeze", "cgroup.kill", "cgroup.max.descendants"):
        assert os.stat(box.group() / file).st_uid == 0, file
    # Its root may not leave it, and its limits and its freezer are not its own.
    assert box.sh("cat /proc/1/cgroup | tail -n 1") == "0::/init.scope"
    assert box.exec("sh", "-c", "echo 1 >/sys/fs/cgroup/../cgroup.procs", check=False).returncode != 0
    assert box.exec("sh", "-c", "echo 1 >/sys/fs/cgroup/cgroup.freeze", check=False).returncode != 0
    assert box.exec("sh", "-c", "echo max >/sys/fs/cgroup/cgroup.max.descendants", check=False).returncode != 0
    # Nor does what box exec leaves behind grow.
    assert ".drover" not in box.groups()

    started = time.monotonic()
    lab.exec("node1", "drover-node", "box", "stop", box.name)
    assert time.monotonic() - started < 30
    lab.exec("node1", "drover-node", "box", "start", box.name)
    box.wait_until_up()
    assert box.sh("journalctl --list-boots --no-pager -q | wc -l") == "2"
    assert box.exec("journalctl", "--verify", check=False).returncode == 0
    assert "Reached target" in box.sh("journalctl -b -1 --no-pager -q -n 40")


@pytest.mark.limit(300)
def test_moves_there_and_back(lab, make_systemd_box, before):
    box = make_systemd_box("sd", "debian-13-systemd", 61).answers(22)
    shell = Shell(lab, box)
    assert shell.ask("whoami") == "alice"
    session = shell.ask("loginctl show-session $XDG_SESSION_ID -p Name -p State -p Scope -p Class")
    assert "Name=alice" in session and "State=active" in session
    unit = shell.ask("systemd-run --user --unit=mine -q sleep infinity; systemctl --user is-active mine")
    assert unit == "active"
    assert shell.ask("x=41; echo $x") == "41"
    until("the timer fires", lambda: len(box.ticks()) > 2)
    groups = {path: what for path, what in box.groups().items() if "tick" not in path}
    assert groups["user.slice/user-1000.slice/user@1000.service"][0] == int(box.show()["id_base"]) + ALICE
    boot = box.sh("cat /proc/sys/kernel/random/boot_id")

    for turn in range(2):
        answers = []
        mover = threading.Thread(target=box.migrate)
        mover.start()
        while mover.is_alive():
            answers.append(shell.ask("echo $((x += 1))"))
            time.sleep(0.02)
        mover.join()
        assert box.node() == ("node2", "node1")[turn]
        nothing_remains(lab, box, ("node1", "node2")[turn], before)
        assert answers and shell.ask("echo $x") == answers[-1]
        assert {path: what for path, what in box.groups().items() if "tick" not in path} == groups
        assert box.state() == "running"
        count = len(box.ticks())
        until("the timer goes on firing", lambda: len(box.ticks()) > count + 2)
        assert box.sh("cat /proc/sys/kernel/random/boot_id") == boot
        assert "Started" in box.sh("systemctl status --no-pager ssh")  # its part of the journal of this boot
        # systemd still hears when the last process of a group has ended: that is what it watches there.
        shell.ask("systemctl --user stop mine")
        assert shell.ask("systemctl --user is-active mine") == "inactive"
        box.sh("systemd-run --scope --unit=short -q sh -c 'sleep 0.3 & sleep 0.1'")
        until("a scope ends with its last process", lambda: box.sh("systemctl is-active short.scope || :") == "inactive")
        assert shell.ask("systemctl --user start mine 2>/dev/null || systemd-run --user --unit=mine -q sleep infinity; "
                         "systemctl --user is-active mine") == "active"
        groups = {path: what for path, what in box.groups().items() if "tick" not in path}
        assert session == shell.ask("loginctl show-session $XDG_SESSION_ID -p Name -p State -p Scope -p Class")
        # Nothing spins: what CRIU does not carry makes an event loop do that.
        assert busy(box) < 0.3

    # The journal has every tick, and is whole.
    box.sh("systemctl stop tick.timer")
    until("the last tick has ended", lambda: box.exec("systemctl", "is-active", "tick.service", check=False).stdout == "inactive\n")
    box.sh("journalctl --sync")
    said = [int(n) for n in re.findall(r"tick (\d+)", box.sh("journalctl -u tick -o cat --no-pager -q"))]
    assert said == list(range(1, len(box.ticks()) + 1))
    verified = box.exec("sh", "-c", "journalctl --rotate; journalctl --verify 2>&1", check=False)
    assert verified.returncode == 0 and "FAIL" not in verified.stdout, verified.stdout
    assert box.sh("journalctl --list-boots --no-pager -q | wc -l") == "1"
    # A service can be started, restarted and stopped, a user can log in, and the machine ends in order.
    box.sh("systemctl restart systemd-journald systemd-logind dbus.socket ssh")
    assert Shell(lab, box).ask("loginctl list-sessions --no-legend | grep -cw user") == "2"
    shell.type("exit")
    shell.ssh.wait(20)
    assert box.state() == "running"
    started = time.monotonic()
    lab.exec("node1", "drover-node", "box", "stop", box.name)
    assert time.monotonic() - started < 30


def busy(box, seconds=1.5):
    """The most that one process of the box takes of a processor."""
    def used():
        found = {}
        for at, _, _ in os.walk(box.group()):
            for pid in lines(f"{at}/cgroup.procs"):
                for line in lines(f"/proc/{pid}/stat"):
                    found[pid] = sum(map(int, line.rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
        return found

    old = used()
    time.sleep(seconds)
    return max((value - old[pid] for pid, value in used().items() if pid in old), default=0) / seconds


@pytest.mark.limit(300)
def test_whole_server(lab, make_systemd_box, before, tmp_path):
    box = make_systemd_box("sdfull", "full-systemd", 62).answers(80).answers(5432)
    assert box.state() == "running"
    client = Postgres(lab, box.ip4)
    pgbench = tmp_path / "pgbench"
    pgbench.write_bytes(lab.node("node1").path("/run/drover/boxes/sdfull/root/usr/lib/postgresql/17/bin/pgbench").read_bytes())
    pgbench.chmod(0o755)
    pgbench = [pgbench, "-h", box.ip4, "-U", "postgres", "postgres"]
    lab.exec("client", *pgbench, "-i", "-s", "1", "-q")
    bench = lab.popen("client", *pgbench, "-c", "2", "-T", "12", "-n", "--max-tries=1")
    web = lab.connect("client", box.ip4, 80, timeout=60)
    head = b"HEAD / HTTP/1.1\r\nHost: sdfull\r\n\r\n"
    for mode in ("postcopy", "hybrid"):
        assert box.migrate("--mode", mode)["mode"] == mode
        client.check()
        web.sendall(head)  # on the connection from before
        assert web.recv(4096).startswith(b"HTTP/1.1 200 OK")
    output, errors = bench.communicate(timeout=120)
    assert bench.returncode == 0, errors
    assert "number of failed transactions: 0 (0.000%)" in output
    client.finish()
    web.close()
    assert box.state() == "running"
    # systemd's hold on its services is whole: it knows their processes, and when they end.
    box.sh("systemctl restart nginx box-postgres")
    box.answers(80).answers(5432)
    box.sh("systemctl kill -s KILL nginx; for i in $(seq 100); do sleep 0.1; ! systemctl is-failed nginx || exit 0; done; exit 1")
    nothing_remains(lab, box, "node2", before)


@pytest.mark.limit(240)
def test_what_cannot_move_is_named(lab, make_systemd_box, before):
    box = make_systemd_box("sd", "debian-13-systemd", 63)

    def refused(*words, unit="probe"):
        box.exec("systemd-run", f"--unit={unit}", "-q", *words)
        time.sleep(0.3)
        result = box.migrate(check=False)
        assert result.returncode == 1, result
        assert box.node() == "node1"
        box.sh(f"systemctl kill -s KILL {unit}; systemctl stop {unit}; systemctl reset-failed 2>/dev/null || :")
        return result.stderr

    assert "a host name namespace of its own" in refused("unshare", "--uts", "sleep", "infinity")
    assert "an IPC namespace of its own" in refused("unshare", "--ipc", "sleep", "infinity")
    assert "PrivateTmp=yes" in refused("-p", "DynamicUser=yes", "sleep", "infinity")
    assert "MemoryPressureWatch=off" in refused(
        "sh", "-c", "exec 7<>/sys/fs/cgroup/init.scope/memory.pressure; exec sleep infinity")
    box.sh("mkdir /sys/fs/cgroup/odd; echo 1 >/sys/fs/cgroup/odd/cgroup.freeze")
    assert "control group /odd was frozen by the box itself" in box.migrate(check=False).stderr
    box.sh("echo 0 >/sys/fs/cgroup/odd/cgroup.freeze; mkdir /sys/fs/cgroup/odd/t; echo threaded >/sys/fs/cgroup/odd/t/cgroup.type")
    assert "control group /odd is domain threaded" in box.migrate(check=False).stderr
    box.sh("rmdir /sys/fs/cgroup/odd/t /sys/fs/cgroup/odd")
    box.sh("mkdir \"/sys/fs/cgroup/$(printf 'a b%%\\377')\"")  # a name is any bytes
    box.migrate()
    assert box.state() == "running"
    assert any(os.fsencode(path) == b"a b%\xff" for path in box.groups())


@pytest.mark.limit(240)
@pytest.mark.parametrize("point", ["destination.restoring", "destination.prepared", "source.dumped"])
def test_killed_move_leaves_no_group(lab, make_systemd_box, before, tmp_path, point):
    box = make_systemd_box("sd", "debian-13-systemd", 64)
    groups = set(box.groups())
    halted = Halted(box, point, tmp_path)
    for victim in ("source", "destination"):
        if victim in halted.pids:
            halted.kill(victim)
    for node in ("node2", "node1", "node2"):
        lab.exec(node, "drover-node", "recover", check=False, timeout=110)
    assert box.node() == "node1"
    assert {path for path in box.groups() if "tick" not in path} == {path for path in groups if "tick" not in path}
    assert box.state() == "running"
    nothing_remains(lab, box, "node2", before)
    count = len(box.ticks())
    until("the timer goes on firing", lambda: len(box.ticks()) > count + 2)
    box.migrate()
    assert box.state() == "running"
