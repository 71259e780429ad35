"""A lab whose two nodes are virtual machines (ci/vm): Debian 13 with its own kernel and its own control groups."""

import os
import shlex
import shutil
import subprocess

import pytest
from conftest import CLIENT, ROOT, STORE, Lab, build_template, built, checked, no_time_limit, until
from moves import DROVER, Box

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

    def receivers(self, node):
        """Processes on a node that serve another node."""
        return self.sh(node, "grep -lsz '^receive$' /proc/[0-9]*/cmdline | cut -d/ -f3 || :").split()

    def served(self, timeout=110):
        """Waits until no node serves another one."""
        for node in self.nodes:
            until(f"what is served on {node} ends", lambda: not self.receivers(node), timeout)

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

    def __init__(self, guests, box, point, *words):
        self.guests, self.box, self.point = guests, box, point
        if "--mode" not in words:  # the shortest way, and the one with the fewest processes
            words = ("--mode", "stop", *words)
        self.source, self.destination = box.node(), box.other()
        self.side = self.source if point.startswith("source.") else self.destination
        at_destination = f"env DROVER_PAUSE_AT={point}" if point.startswith("destination.") else ""
        # Only the first connection stops there: what recover asks and tells later must not. On the node's own disk,
        # because recover uses it as well, also after a power cut.
        guests.write(self.source, "/srv/rsh", "#!/bin/sh\nnode=$1; shift\n"
                     f"pause=''; [ -e /srv/first ] || pause='{at_destination}'; touch /srv/first\n"
                     'exec ssh -o ConnectTimeout=5 -o ServerAliveInterval=2 -o ServerAliveCountMax=5 "$node" $pause "$@"\n')
        self.child = guests.popen(self.source, "sh", "-c", "rm -f /srv/first; echo $$ >/run/move.pid; "
                                  f"exec env DROVER_PAUSE_AT={point} drover-node --json box migrate {box.name} "
                                  f"--to {self.destination} --rsh /srv/rsh {shlex.join(words)}")
        try:
            until(f"the move stops at {point}", self._has_stopped, timeout=60)
        except BaseException:
            self.child.kill()
            raise

    def _has_stopped(self):
        if self.child.poll() is not None:
            out, err = self.child.communicate()
            raise AssertionError(f"the move ended with {self.child.returncode} before {self.point}:\n{out}{err}")
        return self.guests.sh(self.side, "grep -lsF '(drover-node) T ' /proc/[0-9]*/stat || :")

    def kill(self, victim):
        """SIGKILL to drover-node on one of the two sides."""
        if victim == "source":
            self.guests.sh(self.source, "kill -KILL $(cat /run/move.pid)")
        else:
            self.guests.sh(self.destination, f"kill -KILL {' '.join(self.guests.receivers(self.destination))}")

    def go_on(self):
        """Lets the side that stopped go on, where it is still there, and waits until both have ended. Returns the
        source's exit status; it says nothing when the source's node is off."""
        for node in self.guests.nodes:
            self.guests.sh(node, "kill -CONT $(grep -lsF '(drover-node) T ' /proc/[0-9]*/stat | cut -d/ -f3) 2>/dev/null || :")
        self.out, self.err = self.child.communicate(timeout=110)
        return self.child.returncode


def recover(guests, *nodes):
    """`drover-node recover` there, at once; its exit statuses and what was said."""
    children = [guests.popen(node, "drover-node", "--json", "recover") for node in nodes]
    said = [child.communicate(timeout=110) for child in children]
    return [(child.returncode, *talk) for child, talk in zip(children, said)]


def increments_on_disk(guests, box):
    """How many INCR the private layer of a redis box holds."""
    return int(guests.sh(box.node(), f"cat {DROVER}/boxes/{box.name}/private/upper/var/lib/redis/appendonlydir/* | "
                                     "grep -aci '^INCR'"))


@pytest.fixture(scope="session")
def guests():
    assert os.environ.get("DROVER_IN_WORKBENCH"), "run the tests as: ci/workbench -- python3 -m pytest tests/vm"
    with Guests(f"vm-{os.getpid()}") as made:
        yield made
