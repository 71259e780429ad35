"""What the benchmarks share: a lab of their own, boxes to move, a client that measures its gap."""
import argparse
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORE = "/var/cache/drover/bench-store"  # templates, kept between runs


class Lab:
    """Two nodes and a client, taken down at the end."""

    def __init__(self):
        self.name = f"bench{os.getpid()}"
        self.env = dict(os.environ, DROVER_LAB=self.name)

    def __enter__(self):
        self.run([ROOT / "ci/lab", "up"])
        return self

    def __exit__(self, *_):
        self.run([ROOT / "ci/lab", "down"])

    def run(self, argv, **options):
        options.setdefault("timeout", 300)
        done = subprocess.run([str(a) for a in argv], env=self.env, text=True, capture_output=True, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def exec(self, machine, *argv, **options):
        return self.run([ROOT / "ci/lab", "exec", machine, "--", *argv], **options)

    def popen(self, machine, *argv, **options):
        return subprocess.Popen([str(ROOT / "ci/lab"), "exec", machine, "--", *map(str, argv)], env=self.env,
                                text=True, **options)

    def wait_for(self, machine, *argv):
        """Until the command succeeds and says OK."""
        for _ in range(100):
            try:
                if "OK" in self.exec(machine, *argv):
                    return
            except RuntimeError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{argv} did not succeed")

    def give_templates(self):
        for node in ("node1", "node2"):
            self.exec(node, "cp", "-a", f"{STORE}/.", "/var/lib/drover/")


def build_templates(*names):
    for name in names:
        definition = ROOT / f"templates/definitions/{name}.toml"
        subprocess.run(["drover", "--state-dir", STORE, "template", "build", str(definition)], check=True,
                       stdout=subprocess.DEVNULL)


class Client:
    """tests/tools/redis_client.py on the lab's client while the block runs: one TCP connection, every answer
    checked. Afterwards `gap_ms` is the longest wait for an answer. `fill` megabytes are written first."""

    def __init__(self, lab, address, fill):
        self.lab, self.address, self.fill = lab, address, fill

    def __enter__(self):
        tool = ROOT / "tests/tools/redis_client.py"
        self.process = self.lab.popen("client", "python3", tool, self.address, "--fill", self.fill,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("the client could not talk to the box")
        time.sleep(0.5)
        return self

    def __exit__(self, kind, *_):
        time.sleep(2.5)  # a retransmission may be due only now
        out, _ = self.process.communicate(timeout=90)
        if kind is None:
            seen = json.loads(out)
            if self.process.returncode != 0:
                raise RuntimeError(f"the client saw what must not be: {seen}")
            self.gap_ms = seen["gap_ms"]


class PeakMemory:
    """While the block runs: the anonymous memory of all drover-node processes of a node together. Afterwards `mib` is the
    most that one node had. Memory files (memfd, tmpfs) are not in it: what is in them is the box's."""

    def __init__(self, lab, interval=0.05):
        self.groups = {node: f"/sys/fs/cgroup/drover-lab-{lab.name}/{node}/lab" for node in ("node1", "node2")}
        self.interval, self.mib = interval, 0.0

    def __enter__(self):
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.ended.set()
        self.thread.join()

    def watch(self):
        while not self.ended.wait(self.interval):
            for group in self.groups.values():
                kib = sum(self.anonymous(pid) for pid in pathlib.Path(group, "cgroup.procs").read_text().split())
                self.mib = max(self.mib, kib / 1024)

    @staticmethod
    def anonymous(pid):
        """In KiB; 0 for another program, or one that has ended."""
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                status = dict(line.split(":", 1) for line in file)
        except OSError:
            return 0
        return int(status.get("RssAnon", "0").split()[0]) if status["Name"].strip() == "drover-node" else 0


def bar(name, value, goal, unit="ratio", at_least=False):
    """A figure that must not exceed its goal, or must reach it. None: it could not be measured, and does not hold."""
    holds = value is not None and (value >= goal if at_least else value <= goal)
    return {"bar": name, "value": None if value is None else round(value, 3), "unit": unit,
            "goal": goal, "sense": ">=" if at_least else "<=", "holds": holds}


def figure(name, value, unit):
    """A figure that stands beside the bars, to explain them."""
    return {"bar": name, "value": None if value is None else round(value, 1), "unit": unit, "goal": None, "sense": None,
            "holds": value is not None}


def ratio(a, b):
    return None if a is None or not b else a / b


def median(values):
    """Of those that were measured; None where none was."""
    there = [v for v in values if v is not None]
    return statistics.median(there) if there else None


def attempt(what, measure, *arguments):
    """What `measure` returns, or None when it fails: one failed measurement must not lose the others."""
    print(f"bench: {what}", file=sys.stderr, flush=True)
    try:
        return measure(*arguments)
    except Exception:  # whatever it is, it is told, and its bars do not hold
        traceback.print_exc()
        print(f"bench: {what} FAILED", file=sys.stderr, flush=True)
        return None


def first_line(*argv):
    return subprocess.run(argv, cwd=ROOT, text=True, capture_output=True, check=True).stdout.strip().split("\n")[0]


def circumstances():
    """What the figures depend on. As in the working tree: "+" is behind the commit when that differs."""
    changed = first_line("git", "-c", f"safe.directory={ROOT}", "status", "--porcelain", "--untracked-files=no")
    meminfo = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8")
    return {
        "commit": first_line("git", "-c", f"safe.directory={ROOT}", "rev-parse", "HEAD") + ("+" if changed else ""),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "memory_gib": round(int(meminfo.split()[1]) / 2**20, 1),
        "kernel": os.uname().release.split("-")[0],
        "criu": first_line("criu", "--version").removeprefix("Version: "),
    }


def table(bars):
    """As rows of texts."""
    rows = [("BAR", "VALUE", "UNIT", "GOAL", "HOLDS")]
    for b in bars:
        goal = "" if b["goal"] is None else f"{b['sense']} {b['goal']}"
        holds = "" if b["goal"] is None and b["holds"] else "yes" if b["holds"] else "NO"
        rows.append((b["bar"], "failed" if b["value"] is None else str(b["value"]), b["unit"], goal, holds))
    return rows


def keep(directory, name, runs, note, more, bars):
    """DIRECTORY/NAME.json and NAME.md. `note`: what the figures depend on besides circumstances(), `more`: what stands below the
    table; or nothing."""
    what = circumstances() | {"benchmark": name, "runs": runs} | ({"note": note} if note else {})
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(json.dumps(what | {"bars": bars}, indent=1) + "\n", encoding="utf-8")
    lines = [f"# ci/bench {name}", ""]
    lines.append(f"Commit {what['commit'][:12] + what['commit'][40:]}, {what['date']}; {what['cores']} cores, {what['memory_gib']} GiB, "
                 f"kernel {what['kernel']}, CRIU {what['criu']}; medians of {runs}.")
    lines.append("")
    if note:
        lines += [note, ""]
    head, *rows = table(bars)
    lines += ["| " + " | ".join(row) + " |" for row in [tuple(h.lower() for h in head), ("---",) * len(head), *rows]]
    if more:
        lines += ["", more.rstrip("\n")]
    (directory / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or sorted(f.stem for f in pathlib.Path(__file__).parent.glob("*.py") if f.stem != "common")
    bars = []
    for name in names:
        benchmark = importlib.import_module(name)
        found = attempt(name, benchmark.run, options.runs)
        if found is None:
            found = [bar(f"{name}: could be measured", None, 1)]
        if options.out:
            keep(options.out, name, options.runs, getattr(benchmark, "NOTE", ""), getattr(benchmark, "MORE", ""), found)
        bars += found
    if options.json:
        print(json.dumps(bars, indent=1))
    else:
        for name, value, unit, goal, holds in table(bars):
            print(f"{name:<64} {value:>9} {unit:<6} {goal:>8}  {holds}".rstrip())
    return 0 if all(b["holds"] for b in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
