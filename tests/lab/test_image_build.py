"""Building host images for real: the same bytes twice, and the same bytes without root."""

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT
from image_builds import CACHE, ordinary_user, packages, quick_definition, run, share_cache, sums  # noqa: F401: a fixture

pytestmark = [pytest.mark.slow, pytest.mark.limit(600)]

# dpkg runs a package's script outside the root: with this machine's Python. What root can give to a file, and an image is to keep.
POSTINST = r"""#!/usr/bin/python3
import os, struct, subprocess
top = os.environ["DPKG_ROOT"] + "/usr/lib/kinds"
def make(name, mode=0o644, uid=0, gid=0):
    path = f"{top}/{name}"
    with open(path, "w") as file:
        file.write(name)
    os.chown(path, uid, gid)
    os.chmod(path, mode)
    return path
os.makedirs(top)
make("owned", uid=1234, gid=5)
make("last", uid=65534, gid=65534)
make("setuid", mode=0o4755)
make("setgid", mode=0o2755, gid=42)
# struct vfs_cap_data of linux/capability.h, revision 2 with the effective bit: CAP_NET_RAW
os.setxattr(make("capable", mode=0o755), "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
os.setxattr(make("labelled"), "user.label", b"drover")
subprocess.run(["setfacl", "-m", "u:1234:r", make("listed")], check=True)
os.mkfifo(f"{top}/fifo")
os.link(make("linked"), f"{top}/link")
os.mkdir(f"{top}/sticky")
os.chmod(f"{top}/sticky", 0o1777)
"""

MANUAL = "/usr/share/man/man1/ls.1.gz"
LOOK = r"""
import json, os, sys
found = {}
for name in sorted(os.listdir(sys.argv[1])):
    path = f"{sys.argv[1]}/{name}"
    status = os.lstat(path)
    found[name] = [oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink,
                   {key: os.getxattr(path, key).hex() for key in os.listxattr(path)}]
print(json.dumps(found))
"""


def build(out, definition, packages, state, *words, **options):
    run("drover", "--state-dir", state, "--run-dir", state / "run", "image", "build", definition, "-o", out,
        "--packages", packages, *words, **options)
    return out


@pytest.fixture(scope="module")
def inputs(packages, tmp_path_factory):  # noqa: F811
    """A definition, and a directory of its own packages: drover-node's, and one with a file of every kind."""
    top = tmp_path_factory.mktemp("inputs")
    own, kinds = top / "packages", top / "kinds"
    shutil.copytree(packages, own)
    (kinds / "DEBIAN").mkdir(parents=True)
    (kinds / "DEBIAN/control").write_text("Package: kinds\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.invalid>\n"
                                          "Description: a file of every kind\n")
    (kinds / "DEBIAN/postinst").write_text(POSTINST)
    (kinds / "DEBIAN/postinst").chmod(0o755)
    run("dpkg-deb", "--root-owner-group", "--build", kinds, own / "kinds_1_all.deb")
    return quick_definition(top / "definitions", ["kinds"], f'\n[strip]\nkeep = ["{MANUAL}"]\n'), own


@pytest.fixture(scope="module")
def image(inputs, tmp_path_factory):
    """Root's, with the cache of this machine: its root may have been installed on another day, by an earlier run."""
    top = tmp_path_factory.mktemp("root")
    return build(top / "image", *inputs, top / "state")


def in_root(image, *argv):
    """What a program says that looks at its root, as this kernel sees it, in /mnt."""
    return run("unshare", "--mount", "sh", "-ec", 'mount -t erofs "$0" /mnt; exec "$@"', image / "root.img", *argv).stdout


def kinds_in(image):
    """What stands in /usr/lib/kinds."""
    return json.loads(in_root(image, "python3", "-c", LOOK, "/mnt/usr/lib/kinds"))


def test_what_is_kept_stays(image):
    """Of the documentation, which is stripped, the one file that the definition keeps."""
    assert in_root(image, "find", "/mnt/usr/share/man", "-type", "f").splitlines() == [f"/mnt{MANUAL}"]


def test_files_keep_what_they_are(image):
    file = oct(0o100644)
    capability = "0100000200200000" + "00" * 12
    found = kinds_in(image)
    acl = found["listed"][4].pop("system.posix_acl_access")
    assert "d2040000" in acl  # user 1234, in little-endian
    assert found == {
        "capable": [oct(0o100755), 0, 0, 1, {"security.capability": capability}],
        "fifo": [oct(0o010644), 0, 0, 1, {}],
        "labelled": [file, 0, 0, 1, {"user.label": b"drover".hex()}],
        "last": [file, 65534, 65534, 1, {}],
        "link": [file, 0, 0, 2, {}],
        "linked": [file, 0, 0, 2, {}],
        "listed": [file, 0, 0, 1, {}],
        "owned": [file, 1234, 5, 1, {}],
        "setgid": [oct(0o102755), 0, 42, 1, {}],
        "setuid": [oct(0o104755), 0, 0, 1, {}],
        "sticky": [oct(0o041777), 0, 0, 2, {}],
    }


def test_building_twice_gives_the_same_bytes(inputs, image, tmp_path):
    """Another cache with the same packages, another directory, time zone, language, umask and host name, and another time."""
    share_cache(tmp_path / "cache")
    definition, own = inputs
    elsewhere = shutil.copytree(definition.parent, tmp_path / "elsewhere") / definition.name
    odd = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "HOME": "/", "SOURCE_DATE_EPOCH": "1"}
    argv = ["drover", "--state-dir", tmp_path / "state", "--run-dir", tmp_path / "run", "image", "build", elsewhere, "-o", "again",
            "--packages", own, "--cache-dir", tmp_path / "cache", "--offline"]
    run("unshare", "--uts", "sh", "-ec", 'hostname elsewhere; umask 077; exec "$@"', "sh", *argv, cwd=tmp_path, env=odd)
    assert sums(tmp_path / "again") == sums(image)
    assert len(sums(image)) > 10


def test_a_lock_holds_when_the_mirror_has_gone_on(inputs, image, tmp_path):
    """Its lists have a newer chrony, and image.lock's is in the cache alone."""
    definition, own = inputs
    locked = shutil.copytree(definition.parent, tmp_path / "locked") / definition.name
    build(tmp_path / "first", locked, own, tmp_path / "state", "--offline", "--update-lock")
    share_cache(tmp_path / "cache")
    newer = 0
    for path in tmp_path.glob("cache/apt/*/lists/*_Packages"):
        text, found = re.subn(r"^(Package: chrony\n(?:.+\n)*?Version: .+)$", r"\1.1", path.read_text(), flags=re.MULTILINE)
        newer += found
        path.unlink()  # it is the machine's as well
        path.write_text(text)
    assert newer > 0
    build(tmp_path / "again", locked, own, tmp_path / "state", "--offline", "--cache-dir", tmp_path / "cache")
    assert sums(tmp_path / "again") == sums(image)


def test_without_root_the_bytes_are_the_same(inputs, image):
    with ordinary_user() as user:
        definition, own = inputs
        shutil.copytree(definition.parent, user.home / "definitions")
        shutil.copytree(own, user.home / "packages")
        share_cache(user.home / ".cache/drover")
        user.own()
        mounts = Path("/proc/self/mountinfo").read_text()
        user.run("drover", "image", "build", "definitions/quick.toml", "-o", "image", "--packages", "packages", "--offline")
        made = user.home / "image"
        assert sums(made) == sums(image)
        user.run("drover", "image", "verify", "image")
        # Everything is the user's own, where a user's own things are, and can be removed by the user.
        assert {path.stat().st_uid for path in (made, *made.rglob("*"))} == {4000}
        assert (user.home / ".local/state/drover/keys/local.key").stat().st_uid == 4000
        assert list((user.home / ".cache/drover/image/roots").glob("*.tar"))
        user.run("rm", "-rf", ".cache", ".local", "image")
        assert Path("/proc/self/mountinfo").read_text() == mounts


def test_a_template_without_root_is_the_same_layer(tmp_path):
    definitions = ROOT / "templates/definitions"
    built = json.loads(run("drover", "--json", "--state-dir", tmp_path, "--run-dir", tmp_path / "run", "template", "build",
                           definitions / "shell.toml").stdout)
    with ordinary_user() as user:
        shutil.copytree(definitions, user.home / "definitions")
        share_cache(user.home / ".cache/drover")
        user.own()
        made = json.loads(user.run("drover", "--json", "template", "build", "definitions/shell.toml", "--offline").stdout)
        assert made["layer"] == built["layer"]
        error = user.error("template", "build", "definitions/redis.toml", "--offline")
        assert error["error"].endswith("base: redis stands on another template, and only root can mount that one's layers")
        assert "sudo" in error["hint"]


@contextlib.contextmanager
def no_more_user_namespaces():
    """What to put before a command that is to run in a user namespace with all ids, in which nobody can make another one."""
    with subprocess.Popen(["unshare", "--user", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()  # it stands there now
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{kind}").write_text("0 0 1000000\n")
        yield ["nsenter", f"--target={holder.pid}", "--user", "sh", "-ec", 'echo 0 >/proc/sys/user/max_user_namespaces; exec "$@"', "sh"]
        holder.stdin.close()


def test_where_there_is_no_user_namespace_it_says_why(inputs):
    with ordinary_user() as user:
        shutil.copytree(inputs[0].parent, user.home / "definitions")
        user.own()
        command = ("image", "build", "definitions/quick.toml", "-o", "image")

        user.give_ids("builder:700000:1000")
        error = user.error(*command)
        assert error["error"] == "the user builder has no range of 65536 ids in /etc/subuid"
        assert error["hint"] == ("sudo usermod --add-subuids 701000-766535 --add-subgids 701000-766535 builder; "
                                 "or build as root, with sudo")
        user.give_ids("4000:700000:65536")  # by number

        (user.home / "empty").mkdir()
        error = user.error(*command, path=user.home / "empty")
        assert error["error"] == "newuidmap is not here, and without root a build needs it"
        assert error["hint"] == "install the package uidmap, or build as root, with sudo"

        with no_more_user_namespaces() as before:
            error = user.error(*command, before=before)
        assert error["error"].startswith("this machine does not let ordinary users make user namespaces")
        assert error["hint"] == "sudo sysctl -w user.max_user_namespaces=65536; or build as root, with sudo"
        error = user.error(*command, "--backend", "guestfs")
        assert error["error"].startswith("--backend guestfs is for root") and "leave it out" in error["hint"]
        assert not (user.home / "image").exists() and not (user.home / ".cache").exists()
