"""`drover image delta` and `apply`, on images that mkfs.erofs has made of this machine's programs: small, and killed at every
system call that writes."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import checked

WRITES = "write,pwrite64,ftruncate,fsync,rename,renameat2,mkdir,unlinkat,fchmod"
LIMIT_PERCENT = 3


def run(*argv, check=True):
    done = subprocess.run([str(word) for word in argv], text=True, capture_output=True, timeout=120)
    return checked(done) if check else done


def tree_of(directory, files=400, most=200_000):
    """Some hundreds of this machine's programs and texts, some 20 MB."""
    directory.mkdir()
    found = (path for top in ("/usr/bin", "/usr/sbin", "/etc", "/usr/share/perl5") for path in sorted(Path(top).rglob("*"))
             if path.is_file() and not path.is_symlink() and 1000 < path.stat().st_size < most)
    for path, _ in zip(found, range(files)):
        target = directory / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return directory


def change(tree, at):
    """A package of three files in another version: bytes here and there, and a different size."""
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    begin = int(at * (len(files) - 3))
    rng = random.Random(at)
    for path in files[begin:begin + 3]:
        data = bytearray(path.read_bytes())
        for _ in range(20):
            data[rng.randrange(len(data))] ^= 0xFF
        middle = len(data) // 2
        path.write_bytes(data[:middle] + rng.randbytes(777) + data[middle:])


class Images:
    """Images of trees, below one directory."""

    def __init__(self, top):
        self.top = top
        self.keys = top / "keys"

    def make(self, name, tree, version, options):
        erofs = self.top / f"{name}.erofs"
        run("mkfs.erofs", "--quiet", "-T1790000000", "--mkfs-time", f"-U{version[-8:]}-89ab-4cde-8f01-23456789abcd", *options, erofs, tree)
        with erofs.open("r+b") as file:
            file.truncate((erofs.stat().st_size + 4095) // 4096 * 4096)
        run("image_sample", self.keys, self.top / name, version, f"root.img={erofs}")
        return self.top / name

    def drover(self, *words, check=True):
        return run("drover", "--json", "image", *words, "--keys", self.keys, check=check)


@pytest.fixture
def images(tmp_path):
    return Images(tmp_path)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.limit(300)
@pytest.mark.parametrize("at", [0.0, 0.5])
@pytest.mark.parametrize("options", [["-zzstd,level=3", "-C65536"], ["-zlzma,level=3", "-C1048576"]], ids=["zstd", "lzma"])
def test_one_package_is_a_small_delta(images, tmp_path, options, at):
    tree = tree_of(tmp_path / "tree")
    old = images.make("old", tree, "2026112801", options)
    change(tree, at)
    new = images.make("new", tree, "2026112802", options)
    assert json.loads(images.drover("verify", new).stdout)["good"]
    report = json.loads(images.drover("delta", old, new, "-o", tmp_path / "delta").stdout)
    percent = 100 * (tmp_path / "delta").stat().st_size / report["image_bytes"]
    print(f"{percent:.2f} % of {report['image_bytes']} bytes, {report['memory']} of memory: {report['parts']}")
    assert report["bytes"] == (tmp_path / "delta").stat().st_size and percent <= LIMIT_PERCENT
    made = json.loads(images.drover("apply", tmp_path / "delta", "--old", old, "-o", tmp_path / "made").stdout)
    assert made["root_hash"] == json.loads((new / "manifest.json").read_text())["root"]["root_hash"]
    assert contents(tmp_path / "made") == contents(new)
    assert json.loads(images.drover("verify", tmp_path / "made").stdout)["good"]


@pytest.mark.limit(600)
def test_killed_at_every_write(images, tmp_path):
    """The new image or none, and an older delta or the new one; what was left is no obstacle to the next one."""
    tree = tree_of(tmp_path / "tree", files=20, most=20_000)
    old = images.make("old", tree, "2026112801", ["-zzstd,level=3"])
    change(tree, 0.5)
    new = images.make("new", tree, "2026112802", ["-zzstd,level=3"])
    images.drover("delta", old, new, "-o", tmp_path / "good")
    out, delta, older = tmp_path / "out", tmp_path / "delta", b"an older delta"
    for words, target, before, after in (
            (("apply", tmp_path / "good", "--old", old, "-o", out), out, None, contents(new)),
            (("delta", old, new, "-o", delta), delta, older, (tmp_path / "good").read_bytes())):
        seen, ended = set(), False
        for step in range(1, 500):
            if before is not None:
                target.write_bytes(before)
            done = run("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={WRITES}", "-e", f"inject={WRITES}:signal=KILL:when={step}",
                       "drover", "--json", "image", *words, "--keys", images.keys, check=False)
            left = contents(target) if target.is_dir() else target.read_bytes() if target.exists() else None
            assert left in (before, after), (words[0], step)
            seen.add(left == after)
            if target.is_dir():
                shutil.rmtree(target)
            if done.returncode == 0:
                ended = True
                break
        assert ended and step > 10 and seen == {False, True}, (words[0], step, seen)
    assert not list(tmp_path.glob("*.half"))
