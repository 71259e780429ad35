"""A lab whose two nodes are virtual machines (ci/vm): Debian 13 with its own kernel and its own control groups."""

import collections
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from conftest import CLIENT, ROOT, STORE, Lab, Process, build_template, built, checked, lines, no_time_limit, until
from moves import BRINGERS, DROVER, Box, parts

CONSOLES = ROOT / "build" / os.environ.get("DROVER_PRESET", "dev") / "results"


class Guests(Lab):
    """`exec`, `popen` and `json` reach the nodes over ssh, from the client. `nodes` are those that are on."""

    def __init__(self, name, processors=1):
        super().__init__(name)
        self.processors = processors

    def bring_up(self):
        self._ssh = {}
        with built("redis"):
            build_template("groups", ROOT / "tests/templates")
            self._vm("up", "--store", STORE, "redis", "groups", timeout=900)  # with the image, for the first time
        self._read_pids()
        for name in self.nodes:
            self._connect(name)

    def __exit__(self, *_):
        try:
            self.keep_consoles()
        finally:
            super().__exit__()

    def keep_consoles(self):
        """What the machines' consoles have said stays in build/PRESET/results."""
        CONSOLES.mkdir(parents=True, exist_ok=True)
        for path in self.state.glob("*-console.log*"):
            shutil.copy(path, CONSOLES / f"vm-{path.name}")

    def exec(self, name, *argv, **options):
        if name == CLIENT:
            return super().exec(name, *argv, **options)
        return super().exec(CLIENT, *self._remote(name), shlex.join(map(str, argv)), **options)

    def popen(self, name, *argv, **options):
        if name == CLIENT:
            return super().popen(name, *argv, **options)
        return super().popen(CLIENT, *self._remote(name), shlex.join(map(str, argv)), **options)

    def sh(self, name, script, **options):
        return self.exec(name, "sh", "-c", script, **options).stdout.strip()

    def write(self, name, path, text, mode="0755"):
        self.exec(name, "sh", "-c", f"cat >{path} && chmod {mode} {path} && sync", input=text)

    def off(self, name):
        self._vm("off", name)
        self.nodes.remove(name)
        self._ssh.pop(name).kill()

    def on(self, name):
        self._vm("on", name)
        self.nodes = sorted([*self.nodes, name])
        self._connect(name)

    def console(self, name):
        return (self.state / f"{name}-console.log").read_text(errors="replace")

    def processes(self, node):
        """What runs on a node, in the order in which it began."""
        said = self.sh(node, "cat /proc/[0-9]*/stat 2>/dev/null; grep -Hasz '' /proc/[0-9]*/cmdline || :")
        words = collections.defaultdict(list)
        for pid, word in re.findall(r"/proc/(\d+)/cmdline:([^\0]*)\0", said):
            words[pid].append(word)
        return sorted((Process.of(stat, words[stat.split()[0]]) for stat in re.findall(r"(?m)^\d+ \(.*\) [A-Z] [0-9 -]+$", said)),
                      key=lambda process: process.began)

    def drover(self, node, word):
        """drover-node's processes on a node with this as their first argument."""
        return [process.pid for process in self.processes(node) if process.words[:2] == ["drover-node", word]]

    def served(self, timeout=110):
        """Waits until no node serves another one."""
        for node in self.nodes:
            until(f"what is served on {node} ends", lambda: not self.drover(node, "receive"), timeout)

    @contextlib.contextmanager
    def cut(self):
        """No frame passes from one node to the other. The client, and so a test, still reaches both."""
        self._isolate("on")
        try:
            yield
        finally:
            self._isolate("off")

    def _isolate(self, how):
        switch, = lines(self.group / "switch/lab/cgroup.procs")[:1]
        for name in ("node1", "node2"):
            checked(subprocess.run(["nsenter", f"--net=/proc/{switch}/ns/net", "bridge", "link", "set", "dev", name, "isolated", how],
                                   text=True, capture_output=True, timeout=10))

    def clean(self):
        """Every node forgets its boxes by force, and is as it was after its start."""
        for name in ("node1", "node2"):
            if name in self.nodes:
                self.sh(name, f"rm -rf {DROVER}/boxes {DROVER}/arriving {DROVER}/given; sync", check=False)
                self.off(name)
            self.on(name)
            self.sh(name, f"rm -rf {DROVER}/boxes {DROVER}/arriving {DROVER}/given")

    def mend(self):
        self.end_children()
        for name in {"node1", "node2"} - set(self.nodes):
            self.on(name)

    def _env(self):
        return super()._env() | {"DROVER_VM_CPUS": str(self.processors)}

    def _vm(self, *words, timeout=150):
        with no_time_limit():  # each step in it has one
            return checked(subprocess.run([ROOT / "ci/vm", *words], env=self._env(), text=True, capture_output=True,
                                          stdin=subprocess.DEVNULL, timeout=timeout))

    def _connect(self, name):
        """One connection for all commands: a new one costs a second here."""
        super().exec(CLIENT, "rm", "-f", f"/run/ssh-{name}")  # of one that was killed
        master = subprocess.Popen(self._enter(CLIENT, ["ssh", "-MN", *self._remote(name)[1:]]), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._ssh[name] = master
        until(f"{name} answers ssh", lambda: subprocess.run(
            self._enter(CLIENT, ["ssh", "-O", "check", *self._remote(name)[1:]]), capture_output=True).returncode == 0, 60)

    @staticmethod
    def _remote(name):
        return ["ssh", "-o", f"ControlPath=/run/ssh-{name}", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=6", name]


class Move:
    """A move from where the box is to the other node that has stopped at a point (base/pause.h) on either side."""

    def __init__(self, guests, box, point, mode="stop"):  # the shortest way, and the one with the fewest processes
        self.guests, self.box, self.point, self.pids = guests, box, point, {}
        self.source, self.destination = box.node(), box.other()
        at_destination = f"env DROVER_PAUSE_AT={point}" if point.startswith("destination.") else ""
        # As in moves.Halted: the source must still be there; and only the first connection stops, or the memory's.
        at_source = "source.running" if point in ("destination.running", "destination.named") else point
        first = "true" if point in BRINGERS else "[ ! -e /srv/first ]"
        # On the node's own disk, because recover uses it as well, also after a power cut.
        guests.write(self.source, "/srv/rsh", "#!/bin/sh\nnode=$1; shift\n"
                     f"pause=''; {first} && pause='{at_destination}'; touch /srv/first\n"
                     'exec ssh -o ConnectTimeout=5 -o ServerAliveInterval=2 -o ServerAliveCountMax=5 "$node" $pause "$@"\n')
        guests.sh(self.source, "rm -f /srv/first")
        self.child = guests.popen(self.source, "env", f"DROVER_PAUSE_AT={at_source}", "drover-node", "--json", "box", "migrate",
                                  box.name, "--to", self.destination, "--rsh", "/srv/rsh", "--mode", mode, "--force")
        try:
            until(f"the move stops at {point}", self._has_stopped, timeout=60, pause=0.3)  # each look takes a while from the node
        except BaseException:
            self.child.kill()
            raise

    def _has_stopped(self):
        if self.child.poll() is not None:
            out, err = self.child.communicate()
            raise AssertionError(f"the move ended with {self.child.returncode} before {self.point}:\n{out}{err}")
        here, there = map(self.guests.processes, (self.source, self.destination))
        self.pids |= parts(self.box, here, there)
        return stopped(here if self.point.startswith("source.") else there)

    def kill(self, victim):
        """SIGKILL to drover-node: the source's, the destination's, or the bringer of the memory there."""
        node, pid = self.source if victim == "source" else self.destination, self.pids[victim]
        self.guests.sh(node, f"kill -KILL {pid} || :")
        self._gone(node, pid)
        if victim != "source":  # which knows of it when it goes on
            self._gone(self.source, self.pids["carrier" if victim == "bringer" else "transport"])

    def _gone(self, node, pid):
        until(f"process {pid} on {node} ends", lambda: all(
            process.pid != pid or process.state == "Z" for process in self.guests.processes(node)), timeout=30)

    def resume(self):
        """Lets each side that stopped go on, where it is still there."""
        for node in self.guests.nodes:
            if pids := stopped(self.guests.processes(node)):
                self.guests.sh(node, f"kill -CONT {' '.join(map(str, pids))} || :")

    def go_on(self):
        """Lets them go on, and waits until both have ended. Returns the source's exit status; it says nothing when the
        source's node is off."""
        for _ in range(110):
            self.resume()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.out, self.err = self.child.communicate(timeout=1)
                return self.child.returncode
        pytest.fail(f"the move has not ended: {self.point}")

    def runs(self):
        """The nodes whose kernel lets processes of the box run, but for a box that CRIU is still making. The source is asked
        last: what ran at the destination before does not come back."""
        criu, found = "grep -lsx criu /proc/[0-9]*/comm", []
        for node in (self.destination, self.source):
            said = self.guests.sh(node, f"{criu}; cat /sys/fs/cgroup/drover/{self.box.name}/cgroup.events 2>/dev/null; {criu}; :")
            if "populated 1" in said and "frozen 0" in said and "/comm" not in said:
                found.append(node)
        return found

    def outcome(self):
        """What the report and the error say."""
        return json.loads(self.out)["outcome"], json.loads(self.err.splitlines()[-1])["error"]


def stopped(processes):
    return [process.pid for process in processes if (process.name, process.state) == ("drover-node", "T")]


def recover(guests, *nodes):
    """`drover-node recover` there, at once; its exit statuses and what was said."""
    children = [guests.popen(node, "drover-node", "--json", "recover") for node in nodes]
    said = [child.communicate(timeout=110) for child in children]
    return [(child.returncode, *talk) for child, talk in zip(children, said)]


@pytest.fixture(scope="session")
def guests():
    assert os.environ.get("DROVER_IN_WORKBENCH"), "run the tests as: ci/workbench -- python3 -m pytest tests/vm"
    with Guests(f"vm-{os.getpid()}") as made:
        yield made
