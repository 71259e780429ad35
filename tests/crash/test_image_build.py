"""Builds of host images that are killed or interrupted, step by step, or that have no room: what was there stays whole, nothing is
left but what the next build removes, and that one succeeds."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import until
from image_builds import CACHE, packages, quick_definition, run, share_cache  # noqa: F401: a fixture

pytestmark = [pytest.mark.slow, pytest.mark.limit(600)]

POINTS = ["planned", "installed", "packed", "composed", "signed", "named"]
# What runs for a while, and whether a cache spares the build of it.
CHILDREN = [("dpkg", "roots"), ("xz", "initrds"), ("mkfs.erofs", None)]


class Builder:
    """Builds a definition, which can be changed, into one image directory; with a cache of its own."""

    def __init__(self, top, packages):  # noqa: F811
        self.top, self.packages = top, packages
        self.cache, self.out = top / "cache", top / "images/node"
        # A small disk: its bytes are hashed in each build.
        self.definition = quick_definition(top / "definitions", more='\n[slots]\nfactor = 1\n\n[data]\nsize = "64M"\n')
        self.changes = 0

    def argv(self, *words, cache=None, out=None):
        return ["drover", "--json", "--state-dir", self.top / "state", "--run-dir", self.top / "run", "image", "build", self.definition,
                "-o", out or self.out, "--packages", self.packages, "--cache-dir", cache or self.cache, *words]

    def build(self, *words):
        return json.loads(run(*self.argv(*words)).stdout)

    def change(self):
        """The next image has other bytes than the one that is there."""
        self.changes += 1
        with self.definition.open("a") as file:
            file.write(f'\n[[file]]\npath = "/usr/share/change-{self.changes}"\ncontent = "made"\n')

    @contextlib.contextmanager
    def started(self, pause_at=None):
        """A build in a process group of its own, as a shell starts it."""
        env = {**os.environ, **({"DROVER_PAUSE_AT": f"build.{pause_at}"} if pause_at else {})}
        with subprocess.Popen([str(word) for word in self.argv("--offline")], env=env, text=True, process_group=0, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            try:
                yield child
            finally:
                child.kill()

    def processes(self):
        """Pids and names of all processes that stand where this builder mounts, or below."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                # One whose root is the new one sees no mount outside it.
                if f" {self.top}/run/" in (process / "mountinfo").read_text() or f"{self.top}/" in os.readlink(process / "root"):
                    found[int(process.name)] = (process / "comm").read_text().strip()
            except OSError:
                continue
        return found

    def seen(self):
        """What says which image is there: its manifest, and that no file of it was touched."""
        files = {str(path.relative_to(self.out)): path.stat() for path in self.out.rglob("*")}
        return ((self.out / "manifest.json").read_text(),
                {name: (status.st_ino, status.st_size, status.st_mtime_ns) for name, status in files.items()})

    def left(self):
        """Half files and directories, beside the image and in the cache."""
        image = self.cache / "image"
        return sorted(str(path) for paths in ((path for path in self.out.parent.iterdir() if path != self.out), image.rglob("*.part"),
                                              (image / "scratch").glob("*")) for path in paths)

    def verify(self):
        run("drover", "--state-dir", self.top / "state", "image", "verify", "--parts-only", self.out)


@pytest.fixture(scope="module")
def builder(packages, tmp_path_factory):  # noqa: F811
    """The first image is there, its versions are locked, and its root is in the cache."""
    top = tmp_path_factory.mktemp("builder")
    made = Builder(top, packages)
    # The machine's cache has the root for all tests; only the very first one of all makes it.
    run(*made.argv("--update-lock", cache=CACHE, out=top / "first"))
    shutil.rmtree(top / "first")
    share_cache(made.cache)
    (made.cache / "image/roots").mkdir(parents=True)
    for path in (CACHE / "image/roots").glob("*.tar"):
        shutil.copy(path, made.cache / "image/roots")
    made.build("--offline")
    return made


def stopped(child):
    """It has stopped itself; fails when it ends instead."""
    def looks():
        status = os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return status and status.si_code
    return until("the pause point", looks, timeout=200) == os.CLD_STOPPED


def cut_off(builder, child, name):
    """Kills the build, or interrupts it as Ctrl-C does; returns what it has said. Nothing runs or is mounted afterwards."""
    if name == "SIGKILL":
        child.kill()
    else:
        os.killpg(child.pid, signal.SIGINT)
        os.killpg(child.pid, signal.SIGCONT)
    _, said = child.communicate(timeout=60)
    until("the end of all that it started", lambda: not builder.processes(), timeout=5)
    assert str(builder.top) not in Path("/proc/self/mountinfo").read_text()
    return said


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
def test_cut_off_between_two_steps(builder, name):
    for point in POINTS:
        builder.change()
        before = builder.seen()
        with builder.started(pause_at=point) as child:
            assert stopped(child), (point, child.communicate())
            said = cut_off(builder, child, name)
        if point == "named":
            assert builder.seen() != before  # the commit point has passed: the new one has the name
            assert child.returncode == (-signal.SIGKILL if name == "SIGKILL" else 0), said
        else:
            assert builder.seen() == before, point
            assert child.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130), (point, said)
        if name == "SIGINT":
            assert builder.left() == [], point
    builder.change()
    builder.build("--offline")
    assert builder.left() == []
    builder.verify()


@pytest.mark.parametrize("name", ["SIGKILL", "SIGINT"])
@pytest.mark.parametrize("program,cached", CHILDREN, ids=[program for program, _ in CHILDREN])
def test_cut_off_while_a_program_runs(builder, program, cached, name):
    if cached:
        spared = builder.cache / "image" / cached
        aside = spared.rename(builder.top / cached)
    builder.change()
    before = builder.seen()
    with builder.started() as child:
        until(program, lambda: child.poll() is not None or program in builder.processes().values(), timeout=200)
        said = cut_off(builder, child, name)
    assert child.returncode == (-signal.SIGKILL if name == "SIGKILL" else 130), said
    assert builder.seen() == before
    if name == "SIGINT":
        assert json.loads(said.splitlines()[-1])["error"] == "interrupted"
        assert builder.left() == []
    if cached:
        assert not spared.exists() or not [path for path in spared.iterdir() if path.suffix != ".part"]
        shutil.rmtree(spared, ignore_errors=True)
        aside.rename(spared)
    if name == "SIGKILL":
        builder.build("--offline")
        assert builder.left() == []
    builder.verify()


def without_room(builder, at, kib, lower=None, out=None):
    """The error of a build for which one directory has no more room than that, and what is in there afterwards. `lower`: on top of
    what is in that directory."""
    mount = 'mount -t tmpfs -o "size=$2k" none "$1"'
    if lower:
        mount = (f'mount -t tmpfs -o "size=$2k" none /mnt; mkdir /mnt/upper /mnt/work; '
                 f'mount -t overlay -o "lowerdir={lower},upperdir=/mnt/upper,workdir=/mnt/work" overlay "$1"')
    script = f'{mount}; at=$1; shift 2; "$@" && exit 9; status=$?; find "$at" -name "*.part" -o -name ".*"; exit $status'
    failed = run("unshare", "--mount", "--propagation", "private", "sh", "-uc", script, "sh", at, str(kib),
                 *builder.argv("--offline", out=out, cache=at if lower else None), check=False)
    assert failed.returncode == 1, failed
    return json.loads(failed.stderr.splitlines()[-1]), failed.stdout


@pytest.mark.parametrize("kib", [4 << 10, 64 << 10], ids=["of a part", "of the root"])
def test_no_room_for_the_image(builder, tmp_path, kib):
    error, left = without_room(builder, tmp_path, kib, out=tmp_path / "node")
    assert error["error"].startswith(f"no space left to build quick in {tmp_path}" if kib == 4 << 10 else f"no space left in {tmp_path}/.node")
    assert error["hint"] == "free some, or name another directory with -o"
    assert left == ""


def test_no_room_in_the_cache(builder, tmp_path):
    """For a root, which the next build would have."""
    builder.change()
    aside = (builder.cache / "image/roots").rename(builder.top / "roots")
    try:
        error, left = without_room(builder, tmp_path, 20 << 10, lower=builder.cache)
    finally:
        aside.rename(builder.cache / "image/roots")
    assert error["error"] == f"no space left to build quick in {tmp_path}"
    assert error["hint"] == "free some, or name another place with --cache-dir"
    assert left == ""
