"""Builds of host images in tests: drover-node's package, definitions that are quick to build, and an ordinary user."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import ROOT, checked, no_time_limit

CACHE = Path("/var/cache/drover")  # of the machine: with it only the first build of all asks the mirror
UID, FIRST_ID = 4000, 700_000
NOT_SIGNED = "manifest.json.minisig"  # by each builder's own key


@pytest.fixture(scope="session")
def packages(tmp_path_factory):
    """A directory with the packages that CPack makes of the programs under test."""
    directory = tmp_path_factory.mktemp("packages")
    build = Path(shutil.which("drover")).parents[1]
    with no_time_limit():
        run("cpack", "--config", build / "CPackConfig.cmake", "-G", "DEB", "-B", directory, cwd=build)
    shutil.rmtree(directory / "_CPack_Packages")
    return directory


def run(*argv, check=True, timeout=900, **options):
    result = subprocess.run([str(word) for word in argv], text=True, capture_output=True, stdin=subprocess.DEVNULL,
                            timeout=timeout, **options)
    return checked(result) if check else result


def quick_definition(directory, more_packages=(), more=""):
    """node-vm, packed in a second; what it is from lies beside it. `more`: other tables of it."""
    shutil.copytree(ROOT / "image/definitions", directory, dirs_exist_ok=True)
    for lock in directory.glob("*.lock"):
        lock.unlink()
    (directory / "quick.toml").write_text(f'''from = "node-vm.toml"
name = "quick"
packages = {json.dumps(list(more_packages))}

[root]
compression = "zstd,1"
{more}''')
    return directory / "quick.toml"


def share_cache(to):
    """What a build needs to do without a mirror, out of the machine's cache: lists and packages, and no root that is made already."""
    for name in ("packages", "apt"):
        for path in (CACHE / name, *(CACHE / name).rglob("*")):
            target = to / path.relative_to(CACHE)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif path.suffix == ".deb" or path.parent.name == "lists" and path.name != "lock":
                try:
                    target.hardlink_to(path)
                except OSError:
                    shutil.copy(path, target)


def sums(image):
    """SHA-256 of every file of an image directory, but for its signature."""
    found = {}
    for path in sorted(image.rglob("*")):
        if path.is_file() and path.name != NOT_SIGNED:
            with path.open("rb") as file:
                found[str(path.relative_to(image))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


class User:
    """An ordinary user of this machine, with ids of its own, who is there for its own processes only: they have another
    /etc/passwd and /etc/subuid than all others. `home` is for everything of the user's."""

    def __init__(self, home):
        self.home = home
        self.etc = home / "etc"
        self.etc.mkdir()
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", self.etc)
        self._append("passwd", f"builder:x:{UID}:{UID}::{home}:/bin/sh")
        self._append("group", f"builder:x:{UID}:")
        self.give_ids(f"builder:{FIRST_ID}:65536")
        (home / "bin").mkdir()
        shutil.copy(shutil.which("drover"), home / "bin")

    def give_ids(self, line):
        for name in ("subuid", "subgid"):
            (self.etc / name).write_text(f"another:100000:65536\n{line}\n")

    def own(self):
        """Makes the user the owner of what the test has put into the home directory."""
        for path in (self.home, *self.home.rglob("*")):
            if path.is_dir() or path.stat().st_nlink == 1:  # what is linked is the machine's
                shutil.chown(path, UID, UID)

    def argv(self, *argv, path="/bin:/usr/bin:/usr/sbin", before=()):
        binds = "; ".join(f"mount --bind {self.etc}/{name} /etc/{name}" for name in ("passwd", "group", "subuid", "subgid"))
        return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{binds}; exec "$@"', "sh", *before,
                "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "env", "-i", f"--chdir={self.home}",
                f"HOME={self.home}", f"PATH={self.home}/bin:{path}", *map(str, argv)]

    def run(self, *argv, check=True, **options):
        return run(*self.argv(*argv, **options), check=check)

    def error(self, *argv, **options):
        """The error of a command of drover that fails."""
        failed = self.run("drover", "--json", *argv, check=False, **options)
        assert failed.returncode == 1, failed
        return json.loads(failed.stderr.splitlines()[-1])

    def _append(self, name, line):
        with (self.etc / name).open("a") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def ordinary_user():
    # Not in pytest's directories, which are root's alone; beside the machine's cache, so that it can be linked.
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="test-user-", dir=CACHE) as home:
        Path(home).chmod(0o755)
        yield User(Path(home))
