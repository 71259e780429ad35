"""the last round of a private layer: what changed, against rsync of what exists"""
import json
import os
import pathlib
import random
import subprocess
import tempfile
import time

from common import ROOT, bar, figure, median

FILES, PER_DIRECTORY = 100_000, 100
DATABASE, PAGE = 2 << 30, 8192  # PostgreSQL's page


class Rounds:
    """tests/tools/bench_layer.cc between two directories: on entry the live rounds are over."""

    def __init__(self, source, destination):
        self.process = subprocess.Popen([ROOT / "build/release/bin/bench_layer", source, destination], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("the live rounds failed")

    def last(self):
        out, _ = self.process.communicate("go\n", timeout=300)
        if self.process.returncode != 0:
            raise RuntimeError("the last round failed")
        return json.loads(out)


def rsync(source, destination):
    """ms of one run."""
    start = time.monotonic()
    subprocess.run(["rsync", "-aHAXS", "--delete", f"{source}/", f"{destination}/"], check=True)
    return (time.monotonic() - start) * 1000


def same(source, destination):
    found = subprocess.run(["rsync", "-aHAXSnic", "--delete", f"{source}/", f"{destination}/"], check=True, text=True,
                           capture_output=True).stdout
    if found:
        raise RuntimeError(f"the copy differs:\n{found}")


def make_files(tree):
    for at in range(0, FILES, PER_DIRECTORY):
        directory = tree / f"{at // 10_000:02}" / f"{at // PER_DIRECTORY:04}"
        directory.mkdir(parents=True)
        for i in range(at, at + PER_DIRECTORY):
            (directory / f"{i:06}").write_bytes(b"%06d " % i * 40)


def change_files(tree, turn):
    """10 files, of different directories: six written to, two new, one gone, one renamed."""
    picked = random.Random(turn).sample(sorted(tree.glob("*/*")), 10)
    names = [sorted(directory.iterdir())[turn] for directory in picked]
    for name in names[:6]:
        with open(name, "ab") as file:
            file.write(b"one more line")
    for name in names[6:8]:
        name.with_name(f"new{turn}").write_bytes(b"a new file")
    names[8].unlink()
    names[9].rename(names[9].with_name(f"renamed{turn}"))


def measure_files(place, runs):
    tree = place / "files"
    make_files(tree)
    by_rsync = place / "by-rsync"
    rsync(tree, by_rsync)
    drover, peer = [], []
    for turn in range(runs):
        copy = place / f"copy{turn}"
        copy.mkdir()
        rounds = Rounds(tree, copy)
        change_files(tree, turn)
        drover.append(rounds.last()["ms"])
        peer.append(rsync(tree, by_rsync))
        same(tree, copy)
        subprocess.run(["rm", "-rf", copy], check=True)
    return median(drover), median(peer)


def measure_database(place):
    tree, copy = place / "database", place / "copy"
    tree.mkdir()
    copy.mkdir()
    with open(tree / "base", "wb", buffering=0) as file:
        noise = os.urandom(PAGE)
        for at in range(DATABASE // PAGE):  # page by page, as PostgreSQL extends a table
            file.write(at.to_bytes(8, "little") + noise[8:])
    rounds = Rounds(tree, copy)
    with open(tree / "base", "r+b") as file:
        for page in random.Random(0).sample(range(DATABASE // PAGE), DATABASE // PAGE // 100):
            file.seek(page * PAGE)
            file.write(os.urandom(PAGE))
    seen = rounds.last()
    subprocess.run(["cmp", tree / "base", copy / "base"], check=True)
    return seen


def run(runs):
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="drover-bench-") as place:
        place = pathlib.Path(place)
        drover, peer = measure_files(place, runs)
        database = measure_database(place)
    what = f"{FILES} files, 10 changed"
    return [
        figure(f"{what}: last round, rsync", peer, "ms"),
        bar(f"{what}: last round, drover", drover, 50, "ms"),
        bar(f"{what}: last round, drover / rsync", drover / peer, 0.05),
        figure("2 GB file, 1 % of pages changed: last round", database["ms"], "ms"),
        # A page counts with the piece of cache in which it may lie (decision 31).
        bar("2 GB file, 1 % of pages changed: read / size", database["read"] / DATABASE, 0.25),
        bar("2 GB file, 1 % of pages changed: wire / size", database["wire_bytes"] / DATABASE, 0.03),
    ]
