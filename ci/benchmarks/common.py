"""What the benchmarks share: a lab of their own, boxes to move, a client that measures its gap."""
import argparse
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORE = "/var/cache/drover/bench-store"  # templates, kept between runs


class Lab:
    """Two nodes and a client, taken down at the end."""

    def __init__(self):
        self.env = dict(os.environ, DROVER_LAB=f"bench{os.getpid()}")

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


def bar(name, value, goal, unit="ratio"):
    """A figure that must not exceed its goal."""
    return {"bar": name, "value": round(value, 3), "unit": unit, "goal": goal, "holds": value <= goal}


def figure(name, value, unit):
    """A figure that stands beside the bars, to explain them."""
    return {"bar": name, "value": round(value, 1), "unit": unit, "goal": None, "holds": True}


median = statistics.median


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or sorted(f.stem for f in pathlib.Path(__file__).parent.glob("*.py") if f.stem != "common")
    bars = []
    for name in names:
        print(f"bench: {name}", file=sys.stderr)
        bars += importlib.import_module(name).run(options.runs)
    if options.json:
        print(json.dumps(bars, indent=1))
    else:
        print(f"{'BAR':<58} {'VALUE':>9} {'UNIT':<6} {'GOAL':>6}  HOLDS")
        for b in bars:
            goal = "" if b["goal"] is None else b["goal"]
            holds = "" if b["goal"] is None else "yes" if b["holds"] else "NO"
            print(f"{b['bar']:<58} {b['value']:>9} {b['unit']:<6} {goal:>6}  {holds}")
    return 0 if all(b["holds"] for b in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
