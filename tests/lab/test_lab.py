"""The lab itself: what it gives to tests, and that it leaves nothing behind."""

import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINES = ["node1", "node2", "client"]
PAIRS = list(itertools.permutations(MACHINES, 2))
SYSCTLS = {"fs/pipe-user-pages-soft": "0", "fs/pipe-max-size": "268435456", "vm/unprivileged_userfaultfd": "1"}


def pings(lab, source, target, family="-4"):
    return lab.exec(source, "ping", family, "-c1", "-W1", target, check=False).returncode == 0


# What a machine is


@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize("source, target", PAIRS)
def test_machines_reach_each_other_by_name(lab, source, target, family):
    assert pings(lab, source, target, family)


@pytest.mark.parametrize("source, target", PAIRS)
def test_ssh_is_silent_and_finds_the_programs(lab, source, target):
    result = lab.exec(source, "ssh", target, "hostname && command -v criu crun && echo $PATH", check=False)
    path = os.environ["PATH"]
    assert (result.stdout, result.stderr) == (f"{target}\n/usr/sbin/criu\n/usr/bin/crun\n{path}\n", "")


def test_ssh_takes_no_password(lab):
    result = lab.exec("node1", "ssh", "-o", "PubkeyAuthentication=no", "node2", "true", check=False)
    assert result.returncode == 255
    assert "Permission denied (publickey)" in result.stderr


def test_every_name_is_the_host_name(lab):
    for name in MACHINES:
        assert lab.exec(name, "hostname").stdout == name + "\n"


@pytest.mark.parametrize("name", MACHINES)
def test_nothing_reaches_outside(lab, name):
    for family in ("-4", "-6"):
        assert lab.exec(name, "ip", family, "route", "show", "default").stdout == ""
    for address in ("192.0.2.1", "2001:db8::1"):  # for documentation only: RFC 5737, RFC 3849
        with pytest.raises(OSError) as caught:
            lab.connect(name, address, 80)
        assert caught.value.errno == errno.ENETUNREACH


def test_namespaces_are_its_own_but_for_pid_and_user(lab):
    def namespaces(pid):
        return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "net", "uts", "cgroup", "pid", "user")}

    every = [namespaces("self"), *(namespaces(lab.pids[name]) for name in ["switch", *MACHINES] if name in lab.pids)]
    for kind in ("mnt", "net", "uts", "cgroup"):
        assert len({one[kind] for one in every}) == len(every), kind
    for kind in ("pid", "user"):
        assert len({one[kind] for one in every}) == 1, kind


def test_files_of_a_machine_are_its_own(lab):
    for directory in ("/var/lib/drover", "/run"):
        lab.exec("node1", "touch", f"{directory}/here")
        try:
            assert lab.node("node1").path(f"{directory}/here").exists()
            assert not lab.node("node2").path(f"{directory}/here").exists()
            assert not os.path.exists(f"{directory}/here")
        finally:
            lab.exec("node1", "rm", f"{directory}/here")


def test_cgroups_of_a_machine_are_its_own(lab):
    assert "0::/lab\n" in lab.exec("node1", "cat", "/proc/self/cgroup").stdout
    assert lab.exec("node1", "cat", "/sys/fs/cgroup/cgroup.procs").stdout == ""
    lab.exec("node1", "mkdir", "/sys/fs/cgroup/box")
    try:
        assert (lab.group / "node1" / "box").is_dir()
        assert not lab.node("node2").path("/sys/fs/cgroup/box").exists()
    finally:
        lab.exec("node1", "rmdir", "/sys/fs/cgroup/box")


def test_sysctls_are_set(lab):
    for name, value in SYSCTLS.items():
        assert Path("/proc/sys", name).read_text().strip() == value


# Its commands


def test_exec_passes_everything_on(lab):
    for words in (("sh", "-c", "cat; pwd; exit 7"), ("--", "sh", "-c", "cat; pwd; exit 7")):
        result = subprocess.run([ROOT / "ci/lab", "exec", "node1", *words], input="in\0put\n", text=True, timeout=10,
                                capture_output=True, cwd=ROOT / "tests", env={**os.environ, "DROVER_LAB": lab.name})
        assert (result.returncode, result.stdout, result.stderr) == (7, f"in\0put\n{ROOT}/tests\n", "")


def test_exec_here_does_what_ci_lab_exec_does(lab):
    script = "hostname; pwd; echo $PATH; cat /proc/self/cgroup; readlink /proc/self/ns/{mnt,net,uts,cgroup}"
    assert lab.command("exec", "node2", "--", "bash", "-c", script).stdout == lab.exec("node2", "bash", "-c", script).stdout


def test_exec_where_the_directory_is_not_there(lab, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"cd {gone} && rmdir {gone} && exec {ROOT}/ci/lab exec node1 -- pwd"
    result = subprocess.run(["bash", "-c", command], text=True, capture_output=True, timeout=10,
                            env={**os.environ, "DROVER_LAB": lab.name})
    assert result.stdout == "/\n"


def test_status(lab):
    status = json.loads(lab.command("status", "--json").stdout)
    assert (status["lab"], status["up"]) == (lab.name, True)
    assert [machine["name"] for machine in status["machines"]] == MACHINES
    assert status["machines"][1] == {"name": "node2", "pid": lab.pids["node2"], "sshd": True,
                                     "addresses": ["10.77.0.2", "fd77::2"]}
    table = lab.command("status").stdout.splitlines()
    assert table[0].split() == ["NAME", "PID", "IPV4", "IPV6", "SSHD"]
    assert table[3].split() == ["client", str(lab.pids["client"]), "10.77.0.250", "fd77::250", "up"]


def test_status_sees_a_dead_sshd(lab, wait_until):
    try:
        lab.exec("node1", "sh", "-c", "kill $(cat /run/sshd.pid)")
        wait_until("sshd is down", lambda: not json.loads(lab.command("status", "--json").stdout)["machines"][0]["sshd"])
    finally:
        lab.off("node1")


@pytest.mark.parametrize("words, status, talk", [
    (["up"], 1, "error: lab {} is up already\nhint: ci/lab down first, or DROVER_LAB=NAME for another one\n"),
    (["exec", "node9", "--", "true"], 1, "error: lab {} has no machine node9\nhint: ci/lab status lists them\n"),
    (["exec", "../lock", "--", "true"], 1, "error: lab {} has no machine ../lock\nhint: ci/lab status lists them\n"),
    (["on", "node1"], 1, "error: node1 is on already\n"),
    (["link", "node1", "slow", "soon"], 1, "hint: write it as 10mbit or 800kbit\n"),
    (["link", "node1", "slow"], 2, "error: link wants NAME and up, down, drop or slow RATE\n"),
    (["link", "switch", "down"], 2, "error: the switch has no link to itself\n"),
    (["exec", "node1"], 2, "error: exec wants a machine and a command\n"),
    (["up", "--nodes", "10"], 2, "error: --nodes wants 1 to 9"),
    (["up", "--nodes"], 2, "error: --nodes wants a number\n"),
    (["down", "now"], 2, "error: down does not know now\n"),
    (["fly"], 2, "error: ci/lab wants one of"),
    ([], 2, "error: ci/lab wants one of"),
])
def test_errors(lab, words, status, talk):
    result = lab.command(*words, check=False)
    assert talk.format(lab.name) in result.stderr
    assert (result.returncode, result.stdout) == (status, "")


def test_a_name_is_not_a_path():
    result = subprocess.run([ROOT / "ci/lab", "down"], env={**os.environ, "DROVER_LAB": "../x"},
                            text=True, capture_output=True, timeout=10)
    assert (result.returncode, result.stderr) == (1, "error: DROVER_LAB=../x is no name for a lab\nhint: use a-z, 0-9 and -\n")


# Faults


def test_link_down_is_no_carrier(lab, wait_until):
    carrier = lab.node("node2").path("/sys/class/net/uplink/carrier")
    lab.link("node2", "down")
    assert carrier.read_text() == "0\n"
    assert not pings(lab, "node1", "node2") and pings(lab, "node1", "client")
    lab.link("node2", "up")
    wait_until("the link is up", lambda: pings(lab, "node1", "node2"))
    assert carrier.read_text() == "1\n"


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_link_drop_is_a_black_hole(lab, family, wait_until):
    lab.link("node2", "drop")
    assert lab.node("node2").path("/sys/class/net/uplink/carrier").read_text() == "1\n"
    assert not pings(lab, "node1", "node2", family) and not pings(lab, "node2", "client", family)
    assert pings(lab, "node1", "client", family)
    lab.link("node2", "up")
    wait_until("the link is up", lambda: pings(lab, "node1", "node2", family))


def test_link_drop_cuts_no_connection(lab):
    listener = lab.socket("node2")
    listener.bind(("10.77.0.2", 7000))
    listener.listen()
    with listener, lab.connect("client", "node2", 7000) as near, listener.accept()[0] as far:
        lab.link("node2", "drop")
        near.sendall(b"held back")
        far.settimeout(0.5)
        with pytest.raises(TimeoutError):
            far.recv(100)
        lab.link("node2", "up")
        far.settimeout(20)
        assert far.recv(100) == b"held back"


@pytest.mark.parametrize("source, target", [("node1", "node2"), ("node2", "node1")])
def test_link_slow_is_slow_both_ways(lab, source, target):
    lab.link("node2", "slow", "4mbit")
    started = time.monotonic()
    lab.exec(source, "sh", "-c", f"head -c 1000000 /dev/zero | ssh {target} 'cat >/dev/null'")
    assert time.monotonic() - started > 1.5  # 2 s at 4 Mbit/s, but for the first 64 KiB
    lab.link("node2", "up")
    assert lab.exec("node2", "tc", "qdisc", "show", "dev", "uplink").stdout.startswith("qdisc noqueue")


def test_power_off_and_on(lab):
    child = lab.popen("node2", "sleep", "1000")
    lab.exec("node2", "sh", "-c", "echo kept >/var/lib/drover/disk; touch /run/lost; mkdir /sys/fs/cgroup/box")
    lab.off("node2")
    assert child.wait(timeout=5) == -signal.SIGKILL
    assert not pings(lab, "node1", "node2")
    assert lab.command("exec", "node2", "true", check=False).stderr == "error: node2 is off\nhint: ci/lab on node2\n"
    assert "node2    off" in lab.command("status").stdout
    lab.on("node2")
    assert lab.exec("node1", "ssh", "node2", "cat /var/lib/drover/disk; ls /run/lost /sys/fs/cgroup/box",
                    check=False).stdout == "kept\n"
    lab.exec("node2", "rm", "/var/lib/drover/disk")


# The harness


def test_connect_stays_in_the_machine(lab):
    here = os.readlink("/proc/thread-self/ns/net")
    with lab.connect("client", "node1", 22) as connection:
        assert connection.getsockname()[0] == "10.77.0.250"
        assert connection.recv(100).startswith(b"SSH-2.0-")
    with lab.connect("node2", "fd77::1", 22) as connection:
        assert connection.getsockname()[0] == "fd77::2"
    assert os.readlink("/proc/thread-self/ns/net") == here


def test_exec_reports_a_failure(lab):
    with pytest.raises(AssertionError, match="(?s)ended with 3\n.*some words"):
        lab.exec("node1", "sh", "-c", "echo some words >&2; exit 3")
    with pytest.raises(subprocess.TimeoutExpired):
        lab.exec("node1", "sleep", "100", timeout=0.2)
    assert lab.json("node1", "ip", "-json", "link", "show", "br0")[0]["ifname"] == "br0"


def run_pytest(tmp_path, test, **options):
    """Runs another pytest with these tests' conftest on one test."""
    (tmp_path / "test_it.py").write_text("import os, pytest, signal, sys, time\n" + test)
    return subprocess.Popen([sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", tmp_path],
                            cwd=tmp_path, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(ROOT / "tests")}, **options)


@pytest.mark.parametrize("left, expected", [
    ("sleep 1000 &", "node1: process"),
    ("mkdir /sys/fs/cgroup/box", "node1: cgroup box"),
    ("mount -t tmpfs tmpfs /mnt", "node1: mount /mnt tmpfs"),
    ("ip link add left type dummy || ip link add left type bridge", "node1: interface left"),
    ("truncate -s 1M /var/lib/drover/disk && losetup -f /var/lib/drover/disk", "loop device"),
    ("truncate -s 1M /run/disk && losetup -f /run/disk", "loop device"),
])
def test_what_a_test_leaves_is_an_error(tmp_path, left, expected):
    child = run_pytest(tmp_path, f"""
def test_one(lab):
    lab.settle_s = 0.5
    lab.exec("node1", "sh", "-c", {"{ " + left + "\n} >/dev/null 2>&1"!r})
def test_two(lab):
    pass
""")
    output, _ = child.communicate(timeout=50)
    assert "the test left something behind:" in output and expected in output
    assert "2 passed, 1 error" in output


def test_a_test_that_hangs_ends(tmp_path):
    child = run_pytest(tmp_path, """
@pytest.mark.limit(1)
def test_one(lab):
    lab.exec("node1", "sleep", "1000", timeout=None)
""")
    output, _ = child.communicate(timeout=50)
    assert "not done after 1 seconds" in output and "1 failed" in output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing(tmp_path, lab_traces, wait_until, how):
    child = run_pytest(tmp_path, """
def test_one(lab):
    lab.popen("node1", "sleep", "1000")
    open("up", "w").close()
    time.sleep(1000)
""")
    wait_until("its lab is up", (tmp_path / "up").exists)
    assert lab_traces(f"test-{child.pid}", 0)
    child.send_signal(how)
    child.communicate(timeout=30)
    wait_until("nothing is left", lambda: not lab_traces(f"test-{child.pid}", 0))


# Up and down


@pytest.fixture
def sandbox(tmp_path):
    """Runs ci/lab where no other lab is, and where writing its sysctls changes nothing in the kernel."""
    class Sandbox:
        name = f"try-{os.getpid()}"
        state = Path(f"/var/lib/drover-lab/{name}")

        def hook(self, text):
            """A file for BASH_ENV, which bash reads before a script."""
            (tmp_path / "hook").write_text(text)
            return str(tmp_path / "hook")

        def start(self, *words, env=None, name=None):
            return subprocess.Popen(["nsenter", "--target", str(holder.pid), "--mount", "--", ROOT / "ci/lab", *words],
                                    env={**os.environ, "DROVER_LAB": name or self.name, **(env or {})}, text=True,
                                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    start_new_session=True)

        def run(self, *words, **options):
            child = self.start(*words, **options)
            stdout, stderr = child.communicate(timeout=60)
            return subprocess.CompletedProcess(words, child.returncode, stdout, stderr)

        def sysctls(self):
            return {name: (tmp_path / name.replace("/", ".")).read_text().strip() for name in SYSCTLS}

    setup = "mount -t tmpfs tmpfs /dev/shm\n"
    for name in SYSCTLS:
        (tmp_path / name.replace("/", ".")).write_text("12345\n")
        setup += f"mount --bind {tmp_path}/{name.replace('/', '.')} /proc/sys/{name}\n"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-ec", setup + "echo ready; exec sleep infinity"],
                              stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "ready\n"
        yield Sandbox()
        assert Sandbox().run("down").returncode == 0
    finally:
        holder.kill()
        holder.wait()


UNTOUCHED = dict.fromkeys(SYSCTLS, "12345")


def test_sysctls_are_put_back_by_the_last_lab(sandbox, lab_traces):
    second = sandbox.name + "-b"
    assert sandbox.run("up", "--nodes", "1").returncode == 0
    assert sandbox.sysctls() == SYSCTLS
    assert sandbox.run("up", "--nodes", "1", name=second).returncode == 0
    assert sandbox.run("down").returncode == 0
    assert sandbox.sysctls() == SYSCTLS
    assert sandbox.run("down", name=second).returncode == 0
    assert sandbox.sysctls() == UNTOUCHED
    assert not lab_traces(sandbox.name) and not lab_traces(second)


def test_two_labs_do_not_meet(lab, new_lab):
    with new_lab(f"{lab.name}-b", nodes=3) as other:
        assert other.exec("node3", "ssh", "node1", "hostname").stdout == "node1\n"
        listener = other.socket("node1")
        listener.bind(("10.77.0.1", 7000))
        listener.listen()
        with listener, other.connect("client", "node1", 7000), pytest.raises(ConnectionRefusedError):
            lab.connect("client", "node1", 7000)
        other.link("node2", "down")
        assert pings(lab, "node1", "node2")
    assert pings(lab, "node1", "node2")


def test_down_when_nothing_is_up(sandbox):
    for _ in range(2):
        result = sandbox.run("down")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert json.loads(sandbox.run("status", "--json").stdout) == {"lab": sandbox.name, "up": False, "machines": []}
    assert sandbox.run("exec", "node1", "true").stderr == f"error: lab {sandbox.name} is not up\nhint: ci/lab up\n"


@pytest.mark.parametrize("after", ["down", "up"])
def test_a_lab_whose_processes_died(sandbox, lab_traces, wait_until, after):
    assert sandbox.run("up").returncode == 0
    group = Path(f"/sys/fs/cgroup/drover-lab-{sandbox.name}")
    (group / "cgroup.kill").write_text("1")
    wait_until("all are dead", lambda: "populated 0" in (group / "cgroup.events").read_text())
    assert sandbox.run("exec", "node1", "true").stderr == "error: node1 is off\nhint: ci/lab on node1\n"
    assert sandbox.run(after).returncode == 0
    if after == "up":
        assert sandbox.run("exec", "node1", "--", "ssh", "node2", "true").returncode == 0
        assert sandbox.run("down").returncode == 0
    assert not lab_traces(sandbox.name) and sandbox.sysctls() == UNTOUCHED


@pytest.mark.parametrize("after", ["down", "up"])
def test_a_lab_after_a_reboot(sandbox, lab_traces, after):
    """Only what is on disk is still there."""
    assert sandbox.run("up").returncode == 0
    (sandbox.state / "node1" / "old").touch()
    assert sandbox.run("down", env={"BASH_ENV": sandbox.hook("rm() { [[ $* = */var/lib/* ]] || command rm \"$@\"; }")}).returncode == 0
    assert (sandbox.state / "node1" / "old").exists()
    assert sandbox.run(after).returncode == 0
    assert not (sandbox.state / "node1" / "old").exists()
    assert sandbox.run("down").returncode == 0
    assert not lab_traces(sandbox.name) and sandbox.sysctls() == UNTOUCHED


def test_down_takes_everything_that_runs_in_it(sandbox, lab_traces):
    """A frozen box in cgroups of its own, a daemon, mounts in mounts, and loop devices on disk and in memory."""
    assert sandbox.run("up").returncode == 0
    assert sandbox.run("exec", "node1", "--", "bash", "-ec", """
        mkdir -p /sys/fs/cgroup/boxes/box1/inside
        (echo $BASHPID >/sys/fs/cgroup/boxes/box1/inside/cgroup.procs; exec setsid sleep 1000) >/dev/null 2>&1 &
        until grep -q . /sys/fs/cgroup/boxes/box1/inside/cgroup.procs; do sleep 0.01; done
        echo 1 >/sys/fs/cgroup/boxes/box1/cgroup.freeze
        unshare --net --mount setsid sleep 1000 >/dev/null 2>&1 &
        cd /var/lib/drover
        truncate -s 20M disk && mkfs.ext4 -q disk && mkdir at && mount disk at
        truncate -s 1M at/inner /run/memory
        losetup -f at/inner
        losetup -f /run/memory
        cd at; exec sleep 0""").returncode == 0
    before = subprocess.run(["losetup", "-nO", "BACK-FILE"], text=True, capture_output=True).stdout
    assert "/run/memory" in before and "/inner" in before
    assert sandbox.run("down").returncode == 0
    after = subprocess.run(["losetup", "-nO", "BACK-FILE"], text=True, capture_output=True).stdout
    assert "/memory" not in after and "/inner" not in after and "/disk" not in after
    assert not lab_traces(sandbox.name)


def test_up_that_fails_says_why_and_rolls_back(sandbox, lab_traces):
    hook = sandbox.hook('[[ $0 != */lab-machine || $1 != node2 ]] || { echo "no such luck" >&2; exit 1; }')
    result = sandbox.run("up", env={"BASH_ENV": hook})
    assert (result.returncode, result.stderr) == (3, "error: node2 did not come up\nhint: it said: no such luck\n")
    assert not lab_traces(sandbox.name) and sandbox.sysctls() == UNTOUCHED


def kill_at_every_step(sandbox, lab_traces, script, how, stride):
    """A DEBUG trap, which bash runs before each command, kills the script before its n-th one. Goes on
    until up comes to its end first."""
    hook = sandbox.hook(f"""
        if [[ $0 == */{script} && ${{1:-}} == "$STEP_OF" ]]; then
          step=0 shell=$BASHPID
          set -o functrace
          trap '[ $BASHPID != $shell ] || [ $((++step)) != $STEP ] || kill -{how} $$' DEBUG
        fi""")
    for step in itertools.count(1, stride):
        name = "up" if script == "lab" else "node1"
        result = sandbox.run("up", env={"BASH_ENV": hook, "STEP": str(step), "STEP_OF": name})
        if result.returncode == 0:
            assert step > 20, "the hook never ran"
            assert sandbox.run("down").returncode == 0
            return
        if script == "lab" and how == "KILL":
            assert result.returncode == -signal.SIGKILL
            assert sandbox.run("down").returncode == 0
        elif script == "lab":
            # Before the first change there is nothing to roll back, and no trap yet.
            assert result.returncode in (130, -getattr(signal, f"SIG{how}")), result.stderr
        else:
            assert result.returncode == 3 and result.stderr.startswith("error: node1 did not come up\n"), result.stderr
        assert not lab_traces(sandbox.name), f"killed at step {step}"
        assert sandbox.sysctls() == UNTOUCHED, f"killed at step {step}"


@pytest.mark.parametrize("script, how", [("lab", "TERM"), ("lab", "KILL"), ("lab", "INT"), ("lab-machine", "KILL")])
def test_up_killed_at_some_steps(sandbox, lab_traces, script, how):
    kill_at_every_step(sandbox, lab_traces, script, how, 29 if script == "lab" else 7)


@pytest.mark.exhaustive
@pytest.mark.limit(900)
@pytest.mark.parametrize("script, how", [("lab", "TERM"), ("lab", "KILL"), ("lab-machine", "KILL")])
def test_up_killed_at_every_step(sandbox, lab_traces, script, how):
    kill_at_every_step(sandbox, lab_traces, script, how, 1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_interrupted_on_a_terminal(sandbox, lab_traces, how):
    """Ctrl-C goes to up and to whatever it runs at that moment."""
    for delay in range(20, 400, 40):
        child = sandbox.start("up")
        time.sleep(delay / 1000)
        try:
            os.killpg(child.pid, how)
        except ProcessLookupError:
            pass
        child.communicate(timeout=30)
        if child.returncode == 0:
            assert sandbox.run("down").returncode == 0
        assert not lab_traces(sandbox.name) and sandbox.sysctls() == UNTOUCHED, f"after {delay} ms"
