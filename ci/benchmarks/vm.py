"""boxes move between two virtual machines with Debian's kernel: pre-copy's gap by size"""
import json
import shlex
import sys

from common import ROOT, STORE, Client, Lab, attempt, bar, build_templates, figure, median, ratio

MEMORY_MIB = 6144  # of a node: the large box, once in its processes and for a moment some of it beside them
SMALL, LARGE = "128 MB", "4000 MB"
SIZES = {SMALL: 128, LARGE: 4000}  # of redis' values
ADDRESSES = {SMALL: "10.77.0.20", LARGE: "10.77.0.21"}
# Huge: as drover gathers them on a node with `madvise`. Small: as redis has them with Debian's default, `always`.
PAGES = {"huge": "madvise", "small": "never"}
VALUE = 4080  # bytes; with redis' own few it fills a page, so that values are what the memory is of
BATCH = 2048  # values set by one script
# Made in the box, as it would take hours to bring it there. Each value is another one, and packs well: without KVM ssh's
# cipher does not carry much.
VALUE_OF_K = f"string.rep(string.format('%016d', k), {VALUE // 16})"
FILL = f"for k = ARGV[1], ARGV[2] - 1 do redis.call('SET', 'fill' .. k, {VALUE_OF_K}) end"
WRONG = (f"local wrong = 0; for k = 0, ARGV[1] - 1, 41 do if redis.call('GET', 'fill' .. k) ~= {VALUE_OF_K} then wrong = wrong + 1 end "
         "end return wrong")
# In milliseconds. Of dump and restore about half is predicted without KVM (decision 30): this leaves little for what the
# rounds leave.
MAX_DOWNTIME = 2000
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


def set_huge_pages(guests, kind):
    """On both nodes; none of a box that arrives is in huge pages, and drover gathers memory into them where it may."""
    for node in ("node1", "node2"):
        guests.exec(node, "sh", "-c", f"echo {kind} >/sys/kernel/mm/transparent_hugepage/enabled")


def measure(runs, seen):
    """Adds to `seen` what was seen of each move, by size and pages. All kinds by turns: nobody is alone on a machine."""
    with Guests() as guests:
        global NOTE
        NOTE = (f"The nodes are two virtual machines with {MEMORY_MIB} MiB, one processor and kernel {guests.exec('node1', 'uname', '-r').strip()}, "
                "without KVM (QEMU's TCG): everything in them takes about ten times as long. Of the small box twice as many moves.")
        set_huge_pages(guests, "madvise")  # redis wants none, for all of its life, where it starts with `always`
        boxes = {size: Redis(guests, size) for size in SIZES}
        for run_number in range(runs):
            for pages, kind in PAGES.items():
                set_huge_pages(guests, kind)
                for size in (SMALL, LARGE, SMALL):
                    seen[size, pages].append(attempt(f"redis {size}, {pages} pages, run {run_number + 1}", boxes[size].move))


def bars_of(seen, pages):
    def of(size, key):
        return median(report and report[key] for report in seen[size, pages])

    rows = []
    for size in SIZES:
        rows += [figure(f"redis {size}, {pages} pages: gap", of(size, "gap_ms"), "ms"),
                 figure(f"redis {size}, {pages} pages: freeze", of(size, "freeze_ms"), "ms")]
        rows += [figure(f"redis {size}, {pages} pages: of that {phase}", of(size, phase), "ms") for phase in PHASES]
    rows.append(bar(f"redis, {pages} pages: gap with {LARGE} / with {SMALL}", ratio(of(LARGE, "gap_ms"), of(SMALL, "gap_ms")), 1.5))
    return rows


def run(runs):
    build_templates("debian-13", "redis")
    seen = {(size, pages): [] for size in SIZES for pages in PAGES}
    attempt("two virtual machines", measure, runs, seen)
    failed = sum(report is None for reports in seen.values() for report in reports)
    return [row for pages in PAGES for row in bars_of(seen, pages)] + [bar("moves that failed", failed, 0, "moves")]
