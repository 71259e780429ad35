"""boxes move between two virtual machines with Debian's kernel: pre-copy's gap by size"""
import json
import shlex
import sys

from common import ROOT, STORE, Client, Lab, attempt, bar, build_templates, figure, median, ratio

MEMORY_MIB = 6144  # of a node: the large box, once in its processes and for a moment some of it beside them
SIZES = {"128 MB": 128, "4000 MB": 4000}  # of redis' values
ADDRESSES = {"128 MB": "10.77.0.20", "4000 MB": "10.77.0.21"}
VALUE = 4080  # bytes; with redis' own few it fills a page, so that values are what the memory is of
BATCH = 2048  # values set by one script
# Made in the box, as it would take hours to bring it there. Each value is another one, and packs well: without KVM ssh's
# cipher does not carry much.
VALUE_OF_K = f"string.rep(string.format('%016d', k), {VALUE // 16})"
FILL = f"for k = ARGV[1], ARGV[2] - 1 do redis.call('SET', 'fill' .. k, {VALUE_OF_K}) end"
WRONG = (f"local wrong = 0; for k = 0, ARGV[1] - 1, 41 do if redis.call('GET', 'fill' .. k) ~= {VALUE_OF_K} then wrong = wrong + 1 end "
         "end return wrong")
# In milliseconds. Of the dump and restore, predicted are those of a machine with KVM: what is allowed here is little for
# what the rounds leave.
MAX_DOWNTIME = 1000
PHASES = ("dump", "last round", "images", "restore", "resume")
NOTE = ""  # what common.py puts above the table


class Guests(Lab):
    """A lab whose nodes are those of ci/vm. `exec` reaches them over ssh, from the client."""

    def __enter__(self):
        self.env["DROVER_VM_MEMORY"] = str(MEMORY_MIB)
        self.run([ROOT / "ci/vm", "up", "--store", STORE, "redis"], timeout=1200)
        return self

    def __exit__(self, *_):
        self.run([ROOT / "ci/vm", "down"])

    def exec(self, machine, *argv, **options):
        if machine != "client":
            # One connection for all commands: a new one costs a second here.
            reach = ["ssh", "-o", "ControlMaster=auto", "-o", f"ControlPath=/run/ssh-{machine}", "-o", "ControlPersist=yes", machine]
            machine, argv = "client", (*reach, shlex.join(str(word) for word in argv))
        return super().exec(machine, *argv, **options)


class Redis:
    """A box with a redis that has so many megabytes of values, on node1 at first."""

    def __init__(self, guests, size):
        self.guests, self.size, self.address = guests, size, ADDRESSES[size]
        self.name, self.node, self.count = f"r{SIZES[size]}", "node1", SIZES[size] * 1_000_000 // VALUE
        guests.exec("node1", "drover-node", "box", "create", self.name, "--template", "redis", "--ip", f"{self.address}/24")
        guests.exec("node1", "drover-node", "box", "start", self.name)
        guests.wait_for("client", "redis-cli", "-h", self.address, "config", "set", "appendonly", "no")
        self.say("config", "set", "save", "")  # memory is what this is about
        for start in range(0, self.count, BATCH):
            self.say("eval", FILL, 0, start, min(start + BATCH, self.count))

    def say(self, *words):
        return self.guests.exec("client", "redis-cli", "-h", self.address, *words).strip()

    def move(self):
        """To the other node, while a client counts. What the client and the command saw."""
        other = {"node1": "node2", "node2": "node1"}[self.node]
        with Client(self.guests, self.address, 0) as client:
            report = json.loads(self.guests.exec(self.node, "drover-node", "--json", "box", "migrate", self.name, "--to", other,
                                                 "--mode", "precopy", "--max-downtime", MAX_DOWNTIME, timeout=1800))
        self.node = other
        if (wrong := self.say("eval", WRONG, 0, self.count)) != "0":
            raise RuntimeError(f"{wrong} values are wrong")
        phases = {phase["name"]: phase["ms"] for phase in report["phases"]}
        gathered = next(phase["bytes"] for phase in report["phases"] if phase["name"] == "gather")
        print(f"bench: gap {client.gap_ms} ms, freeze {report['freeze_ms']} ms, {report['rounds']} rounds, {gathered >> 20} MiB gathered, "
              f"{', '.join(f'{name} {ms:.0f}' for name, ms in phases.items())}", file=sys.stderr, flush=True)
        return report | phases | {"gap_ms": client.gap_ms}


def measure(moves, huge_pages):
    """What was seen of each move, by size; the sizes by turns. `huge_pages`: how the nodes hand them out."""
    with Guests() as guests:
        for node in ("node1", "node2"):
            guests.exec(node, "sh", "-c", f"echo {huge_pages} >/sys/kernel/mm/transparent_hugepage/enabled")
        kernel = guests.exec("node1", "uname", "-r").strip()
        global NOTE
        NOTE = (f"The nodes are two virtual machines with {MEMORY_MIB} MiB, one processor and kernel {kernel}, without KVM "
                "(QEMU's TCG): everything in them takes about ten times as long.")
        boxes = [Redis(guests, size) for size in SIZES]
        seen = {size: [] for size in SIZES}
        for number in range(moves):
            for box in boxes:
                seen[box.size].append(attempt(f"redis {box.size}, huge pages {huge_pages}, move {number + 1}", box.move))
        return seen


def bars_of(huge_pages, seen):
    def of(size, key):
        return median(report and report[key] for report in seen[size])

    rows, name = [], f"huge pages {huge_pages}"
    for size in SIZES:
        rows += [figure(f"redis {size}, {name}: gap", of(size, "gap_ms"), "ms"), figure(f"redis {size}, {name}: freeze", of(size, "freeze_ms"), "ms")]
        rows += [figure(f"redis {size}, {name}: of that {phase}", of(size, phase), "ms") for phase in PHASES]
    rows.append(bar(f"redis, {name}: gap with 4000 MB / with 128 MB", ratio(of("4000 MB", "gap_ms"), of("128 MB", "gap_ms")), 1.5))
    return rows


def run(runs):
    build_templates("redis")
    rows, failed = [], 0
    for huge_pages in ("madvise", "always"):
        seen = attempt(f"virtual machines, huge pages {huge_pages}", measure, runs, huge_pages) or {size: [None] for size in SIZES}
        rows += bars_of(huge_pages, seen)
        failed += sum(report is None for reports in seen.values() for report in reports)
    return [*rows, bar("moves that failed", failed, 0, "moves")]
