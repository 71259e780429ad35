"""What the tests stand on.

`lab` is a rack on this machine (ci/lab) with two nodes and a client, one for the whole run. After every
test that uses it, nothing may be there that was not there before: no process, cgroup, mount, network
interface, loop device or box. `templates` gives the shipped templates to its nodes. Every test has a time
limit: 60 seconds, or @pytest.mark.limit(SECONDS).
"""

import contextlib
import faulthandler
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIENT = "client"
TEMPLATES = ("shell", "debian-13", "redis", "db", "web", "full", "debian-13-systemd", "full-systemd")
STORE = Path("/var/cache/drover/test-store")


class Process(NamedTuple):
    pid: int
    name: str
    state: str  # the letter of proc(5)
    parent: int
    began: int  # ticks since the machine's boot
    words: list  # of its command line

    @classmethod
    def of(cls, stat, words):
        """Of a line of /proc/PID/stat."""
        pid, name, fields = re.fullmatch(r"(\d+) \((.*)\) (.*)", stat).groups()
        fields = fields.split()
        return cls(int(pid), name, fields[0], int(fields[1]), int(fields[19]), words)


class Lab:
    """A lab of its own name. `with Lab("x") as lab:` brings it up and takes it down."""

    def __init__(self, name, nodes=2):
        self.name = name
        self.group = Path(f"/sys/fs/cgroup/drover-lab-{name}")
        self.state = Path(f"/var/lib/drover-lab/{name}")
        self.nodes = [f"node{k + 1}" for k in range(nodes)]
        self.machines = self.nodes + [CLIENT]
        self.pids = {}
        self.settle_s = 5.0  # how long a test's last processes may take to end
        self._children = []
        self._broken_links = set()

    def __enter__(self):
        # Takes the lab down when this process ends, however it ends: also after a SIGKILL.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; exec "$0" down', ROOT / "ci/lab"],
            env=self._env(), start_new_session=True, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            self.bring_up()
            self._read_pids()
        except BaseException:
            self._guard.communicate(timeout=60)
            raise
        return self

    def __exit__(self, *_):
        self.end_children()
        _, talk = self._guard.communicate(timeout=60)
        assert self._guard.returncode == 0, f"ci/lab down failed:\n{talk}"
        left = traces(self.name)
        assert not left, "the lab left something behind:\n  " + "\n  ".join(left)

    def bring_up(self):
        self.command("up", "--nodes", str(len(self.nodes)))

    def command(self, *words, check=True, timeout=60):
        """Runs `ci/lab WORDS...` for this lab."""
        result = subprocess.run([ROOT / "ci/lab", *words], env=self._env(), text=True, capture_output=True,
                                stdin=subprocess.DEVNULL, timeout=timeout)
        return checked(result) if check else result

    def exec(self, name, *argv, check=True, input=None, timeout=60):
        """Runs a command in a machine, as `ci/lab exec` does, and returns its CompletedProcess (text)."""
        stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        result = subprocess.run(self._enter(name, argv), text=True, capture_output=True, timeout=timeout, **stdin)
        return checked(result) if check else result

    def popen(self, name, *argv, **options):
        """Starts a command in a machine. Its stdio are text pipes; it is killed when the test ends."""
        pipes = {key: subprocess.PIPE for key in ("stdin", "stdout", "stderr")}
        child = subprocess.Popen(self._enter(name, argv), **{**pipes, "text": True, **options})
        self._children.append(child)
        return child

    def json(self, name, *argv, **options):
        """Runs a command that prints one JSON document, and returns that."""
        return json.loads(self.exec(name, *argv, **options).stdout)

    def node(self, name):
        return Node(self, name)

    def address(self, name, family=socket.AF_INET):
        number = 250 if name == CLIENT else int(name.removeprefix("node"))
        return f"10.77.0.{number}" if family == socket.AF_INET else f"fd77::{number}"

    def processes(self, name):
        """What runs in a machine and in none of its boxes, in the order in which it began."""
        return sorted((Process.of(stat, "".join(lines(f"/proc/{pid}/cmdline")).split("\0")[:-1])
                       for pid in lines(self.group / name / "lab/cgroup.procs") for stat in lines(f"/proc/{pid}/stat")),
                      key=lambda process: process.began)

    def socket(self, name, family=socket.AF_INET, kind=socket.SOCK_STREAM):
        """A new socket in a machine's network namespace. A socket stays in the namespace that it was made
        in, so only the thread that makes it goes there."""
        made = []

        def make():
            with open(f"/proc/{self.pids[name]}/ns/net") as namespace:
                os.setns(namespace.fileno(), os.CLONE_NEWNET)
            made.append(socket.socket(family, kind))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def connect(self, name, host, port, timeout=10):
        """A TCP connection from a machine to a host: the name of a machine, or an address."""
        host = self.address(host) if host in self.machines else host
        connection = self.socket(name, socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            connection.settimeout(timeout)
            connection.connect((host, port))
        except BaseException:
            connection.close()
            raise
        return connection

    def link(self, name, what, *rate):
        """down, drop, slow RATE or up, as in `ci/lab link`. Every link is up again when the test has ended."""
        self._broken_links.add(name)
        self.command("link", name, what, *rate)

    def off(self, name):
        """Cuts a machine's power. It is on again when the test has ended."""
        self.command("off", name)
        del self.pids[name]

    def on(self, name):
        self.command("on", name)
        self._read_pids()

    def mend(self):
        """Undoes what a test did to links and power, and ends what it started."""
        self.end_children()
        for name in set(self.machines) - set(self.pids):
            self.on(name)
        while self._broken_links:
            self.command("link", self._broken_links.pop(), "up")

    def inventory(self):
        """Everything in the machines that a test could leave there, but for what holds them."""
        found, devices = set(), set()
        own = {line.split()[2] for line in lines("/proc/self/mountinfo")}
        for name, pid in self.pids.items():
            held = {str(pid), *lines(f"/proc/{pid}/root/run/sshd.pid")}
            for directory, _, _ in os.walk(self.group / name):
                inside = Path(directory).relative_to(self.group / name)
                if str(inside) not in (".", "lab", "drover"):  # "drover" holds the boxes' groups
                    found.add(f"{name}: cgroup {inside}")
                for process in set(lines(f"{directory}/cgroup.procs")) - held:
                    found.add(f"{name}: process {process} {command_line(process)}")
            for line in lines(f"/proc/{pid}/mountinfo"):
                fields = line.split()
                found.add(f"{name}: mount {fields[4]} {fields[fields.index('-') + 1]}")
                devices |= {fields[2]} - own
            for kind in ("boxes", "arriving"):
                for box in Path(f"/proc/{pid}/root/var/lib/drover/{kind}").glob("*"):
                    found.add(f"{name}: {kind} {box.name}")
            for line in lines(f"/proc/{pid}/net/dev")[2:]:
                found.add(f"{name}: interface {line.split(':')[0].strip()}")
        return found | self._loops(devices)

    def clean(self):
        """Takes processes, cgroups, mounts and loop devices out of the machines by force."""
        for name in self.machines:
            self.off(name)
            self.on(name)
            for kind in ("boxes", "arriving"):
                shutil.rmtree(f"{self.state}/{name}/{kind}", ignore_errors=True)

    def _loops(self, devices):
        columns = "NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN"
        listed = subprocess.run(["losetup", "--list", "--json", "--output", columns],
                                text=True, capture_output=True, check=True, timeout=10).stdout
        loops = json.loads(listed)["loopdevices"] if listed else []
        inodes = {os.lstat(os.path.join(at, file)).st_ino
                  for at, _, files in os.walk(self.state) for file in files} if loops else set()
        disk = os.stat(self.state).st_dev
        disk = f"{os.major(disk)}:{os.minor(disk)}"
        return {f"loop device {loop['name']} of {loop['back-file']}" for loop in loops
                if loop["back-maj:min"] in devices or (loop["back-maj:min"] == disk and loop["back-ino"] in inodes)}

    def _env(self):
        return {**os.environ, "DROVER_LAB": self.name}

    def _read_pids(self):
        status = json.loads(self.command("status", "--json").stdout)
        self.pids = {machine["name"]: machine["pid"] for machine in status["machines"] if machine["pid"]}

    def _enter(self, name, argv):
        pid = str(self.pids[name])
        return ["sh", "-ec", 'echo $$ >"$0"; exec "$@"', f"/proc/{pid}/root/sys/fs/cgroup/lab/cgroup.procs",
                "nsenter", "--target", pid, "--mount", "--net", "--uts", "--cgroup", f"--wdns={os.getcwd()}", "--",
                *map(str, argv)]

    def end_children(self):
        """Kills what popen has started."""
        while self._children:
            child = self._children.pop()
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                with contextlib.suppress(BrokenPipeError):
                    if pipe:
                        pipe.close()


class Node:
    """One machine of a lab: the lab's calls without the name in front."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.ip4, self.ip6 = lab.address(name), lab.address(name, socket.AF_INET6)

    def exec(self, *argv, **options):
        return self.lab.exec(self.name, *argv, **options)

    def popen(self, *argv, **options):
        return self.lab.popen(self.name, *argv, **options)

    def json(self, *argv, **options):
        return self.lab.json(self.name, *argv, **options)

    def path(self, inside):
        """A path inside the machine, as this process can open it."""
        return Path(f"/proc/{self.lab.pids[self.name]}/root") / str(inside).lstrip("/")


def until(what, condition, timeout=10.0, pause=0.02):
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {timeout:g} seconds")
        time.sleep(pause)
    return value


def checked(result):
    assert result.returncode == 0, (f"{' '.join(map(str, result.args))}\nended with {result.returncode}\n"
                                    f"--- stdout\n{result.stdout[-4000:]}\n--- stderr\n{result.stderr[-4000:]}")
    return result


def lines(path):
    """The lines of a file, or none when it is gone."""
    try:
        return Path(path).read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, OSError):
        return []


def command_line(pid):
    words = "".join(lines(f"/proc/{pid}/cmdline")).replace("\0", " ").strip()
    return words[:100] or "".join(lines(f"/proc/{pid}/comm"))


def traces(name, settle_s=2.0):
    """What is still there of the lab called name, anywhere on this machine. A killed process is out of its
    cgroup a moment before it is gone."""
    end = time.monotonic() + settle_s
    while (found := traces_now(name)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def traces_now(name):
    found = [str(path) for path in (f"/sys/fs/cgroup/drover-lab-{name}", f"/var/lib/drover-lab/{name}",
                                    f"/dev/shm/drover-lab/{name}") if os.path.exists(path)]
    for process in Path("/proc").glob("[0-9]*"):
        if any(f"/drover-lab-{name}/" in line for line in lines(process / "cgroup")):
            if "State:\tZ (zombie)" not in lines(process / "status"):
                found.append(f"process {process.name} {command_line(process.name)}")
        if any(f"/drover-lab/{name}/" in line for line in lines(process / "mountinfo")):
            found.append(f"mount in process {process.name} {command_line(process.name)}")
    return found


@pytest.fixture(scope="session")
def new_lab():
    """Lab itself, for tests that need one more: `with new_lab("name") as other:`"""
    return Lab


@pytest.fixture(scope="session")
def wait_until():
    """wait_until(WHAT, CONDITION, timeout=10) returns the first true value of CONDITION(), or fails with WHAT."""
    return until


@pytest.fixture(scope="session")
def lab_traces():
    return traces


@pytest.fixture(scope="session")
def lab():
    assert os.environ.get("DROVER_IN_WORKBENCH"), "run the lab's tests as: ci/workbench -- python3 -m pytest tests/lab"
    with contextlib.ExitStack() as stack:
        with no_time_limit():
            made = stack.enter_context(Lab(f"test-{os.getpid()}"))
        yield made


@pytest.fixture(scope="session")
def templates(lab):
    """Gives the shipped TEMPLATES to every node of the lab. Returns the state directory that they come from; it
    is kept over test runs, outside the checkout. Building it for the first time takes minutes."""
    with built(*TEMPLATES):
        for name in lab.nodes:
            checked(subprocess.run(["cp", "-a", *(STORE / part for part in ("layers", "templates", "keys")),
                                    lab.state / name], text=True, capture_output=True, timeout=300))
    return STORE


@contextlib.contextmanager
def built(*names):
    """As long as it lasts, STORE has these of the shipped templates, as they are now."""
    STORE.mkdir(parents=True, exist_ok=True)
    with no_time_limit(), open(STORE / "test.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may share this machine
        for name in names:
            build_template(name)
        yield


def build_template(name, definitions=ROOT / "templates/definitions"):
    sources = sorted(path for directory in {definitions, ROOT / "templates/definitions"} for path in directory.rglob("*")
                     if path.is_file())
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = STORE / f"test.{name}"
    # Asking the mirror for newer packages takes long: once a day is enough.
    if lines(stamp) == [wanted] and stamp.stat().st_mtime > time.time() - 24 * 3600:
        return
    checked(subprocess.run(["drover", "--state-dir", STORE, "template", "build",
                            definitions / f"{name}.toml"],
                           text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=900))
    stamp.write_text(wanted)


@pytest.fixture(autouse=True)
def nothing_left(request):
    """Set up before all other fixtures of a test, and so torn down after them. What a module's own fixtures
    keep for its tests was there before."""
    if "lab" not in request.fixturenames:
        yield
        return
    lab = request.getfixturevalue("lab")
    before = lab.inventory()
    yield
    lab.mend()
    if request.node.get_closest_marker("leaves"):
        return
    end = time.monotonic() + lab.settle_s
    while (left := lab.inventory() - before) and time.monotonic() < end:
        time.sleep(0.05)
    if left:
        lab.clean()
        pytest.fail("the test left something behind:\n  " + "\n  ".join(sorted(left)))


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): the test's time limit, for each of set-up, test and tear-down")
    config.addinivalue_line("markers", "leaves: what the test leaves in the lab is not an error")
    config.addinivalue_line("markers", "slow: left out by ci/test --quick")
    config.addinivalue_line("markers", "exhaustive: only with ci/test --all")


@contextlib.contextmanager
def time_limit(item):
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else 60

    def expired(*_):
        pytest.fail(f"not done after {seconds:g} seconds")

    previous = signal.signal(signal.SIGALRM, expired)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # Where Python cannot run the handler: a call that never comes back. The guard takes the lab down then.
    faulthandler.dump_traceback_later(seconds + 30, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def no_time_limit():
    """For what is done once for all tests, within one test's set-up."""
    faulthandler.cancel_dump_traceback_later()
    seconds, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        if seconds:
            faulthandler.dump_traceback_later(seconds + 30, exit=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item):
    with time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    with time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    with time_limit(item):
        return (yield)
