"""A node's whole disk, from parts that boot no kernel: both ways to compose it give one that GRUB starts from, and the look from outside sees
what is wrong with one."""

import json
import os
import re
import shutil
import subprocess

import pytest
from conftest import no_time_limit
from loader import Machine, choices, install, run

pytestmark = [pytest.mark.slow, pytest.mark.limit(900)]

FIRMWARES = {"seabios": ("pc", 120), "ovmf": ("efi", 240)}  # GRUB's name for it, and how many seconds a round may take
BACKENDS = ("direct", "guestfs")
FILE_SYSTEMS = ("ext4", "xfs")
MIB = 1 << 20
# tests/tools/disk_model.cc and docs/formats/image-disk.md: MiB at which a partition starts.
ESP, ROOT_A, DATA = 2, 66, 194
LOOKS = ("partition table", "loader for BIOS", "ESP", "loader and kernels", "slot state", "root A", "root A under verity", "data")


def model(*words):
    with no_time_limit():
        result = subprocess.run(["disk_model", *map(str, words)], text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=1200)
    assert result.returncode == 0, result.stderr
    return result.stdout


def verdicts(parts, kind="ext4"):
    return dict(line.split(": ", 1) for line in model("inspect", parts, kind).splitlines())


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """The parts of an image: a root under verity, and a boot.cfg that only says that it was read."""
    install()
    directory = tmp_path_factory.mktemp("parts")
    tree = directory / "tree"
    (tree / "sbin").mkdir(parents=True)
    (tree / "sbin/init").write_text("no program\n")
    (tree / "noise").write_bytes(os.urandom(4 * MIB))
    root = directory / "root.img"
    run("mkfs.erofs", "--quiet", "-T0", root, tree)
    offset = root.stat().st_size
    said = run("veritysetup", "format", f"--hash-offset={offset}", root, root).stdout
    (directory / "root-hash").write_text(re.search(r"Root hash:\s*([0-9a-f]{64})", said).group(1))
    (directory / "hash-offset").write_text(str(offset))
    (directory / "vmlinuz").write_bytes(os.urandom(MIB))
    (directory / "initrd").write_bytes(os.urandom(MIB))
    (directory / "boot.cfg").write_text('echo "boot.cfg of slot $choice on $grub_platform"\n')
    return directory


class Disks(dict):
    """Backend: a disk of the parts, made when it is first asked for."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def __missing__(self, backend):
        model(backend, self.parts, "ext4")
        self[backend] = (self.parts / "disk.img").rename(self.parts / f"{backend}.img")
        return self[backend]


@pytest.fixture(scope="session")
def disks(parts):
    return Disks(parts)


def copy_of(disk, directory):
    run("cp", "--sparse=always", disk, directory / "disk.img")
    return Machine(directory / "disk.img", ESP * MIB // 512)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("firmware", FIRMWARES)
def test_grub_starts_slot_a_until_its_tries_are_used_up(disks, tmp_path, firmware, backend):
    """And then iPXE, on either firmware."""
    platform, seconds = FIRMWARES[firmware]
    machine = copy_of(disks[backend], tmp_path)
    for tries in (2, 1, 0):
        said = machine.boot(f"disk-{backend}-{tries}", firmware, seconds)
        assert set(choices(said)) == {"a"} and f"boot.cfg of slot a on {platform}" in said, said
        assert f"a_tries={tries}\n" in machine.get("drover/slot-state").decode()
    # Firmware that has no screen shows what is said there on the serial line: so it is iPXE itself that speaks.
    said = machine.boot(f"disk-{backend}-rescue", firmware, seconds, until=b"iPXE initialising devices", machine=",graphics=off")
    assert set(choices(said)) == {"rescue"}, said


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_disk_is_as_the_parts_say(parts, disks, tmp_path, backend):
    """By other programs than those that made it: sfdisk, blkid, mtools, fsck."""
    disk = disks[backend]
    listed = run("sfdisk", "--dump", disk).stdout
    assert listed == run("sfdisk", "--dump", disks["direct"]).stdout.replace(str(disks["direct"]), str(disk)) \
        .replace("first-lba: 2048", re.search("first-lba: [0-9]+", listed).group(0))
    names = re.findall(r'start= *([0-9]+), .*name="([^"]+)"', listed)
    assert names == [("2048", "drover-bios"), (str(ESP * 2048), "drover-esp"), (str(ROOT_A * 2048), "drover-root-a"),
                     (str((ROOT_A + 64) * 2048), "drover-root-b"), (str(DATA * 2048), "drover-data")]
    esp = f"{disk}@@{ESP * MIB}"
    for path, source in {"EFI/BOOT/BOOTX64.EFI": "loader/BOOTX64.EFI", "drover/grub.cfg": "loader/grub.cfg", "drover/a/vmlinuz": "vmlinuz",
                         "drover/a/initrd": "initrd", "drover/a/boot.cfg": "boot.cfg", "drover/rescue/ipxe.efi": "loader/ipxe.efi",
                         "drover/rescue/ipxe.lkrn": "loader/ipxe.lkrn"}.items():
        run("mcopy", "-n", "-o", "-i", esp, f"::{path}", tmp_path / "got")
        assert (tmp_path / "got").read_bytes() == (parts / source).read_bytes(), path
    root = (parts / "root.img").read_bytes()
    with open(disk, "rb") as file:
        file.seek(ROOT_A * MIB)
        assert file.read(len(root)) == root
    probe = [run("blkid", "--probe", "--offset", at * MIB, "--output", "export", path).stdout for at in (ESP, DATA)
             for path in (disk, disks["direct"])]
    for wanted in ("LABEL=", "UUID=", "TYPE="):
        for mine, direct in (probe[:2], probe[2:]):
            assert [line for line in mine.splitlines() if line.startswith(wanted)] == \
                [line for line in direct.splitlines() if line.startswith(wanted)]
    run("dd", f"if={disk}", f"of={tmp_path}/data", "bs=1M", f"skip={DATA}", "count=320", "conv=sparse")
    run("e2fsck", "-f", "-n", tmp_path / "data")
    assert run("debugfs", "-R", "cat /ssh/keys/host", tmp_path / "data").stdout == "key\n"
    assert "Mode:  0600" in run("debugfs", "-R", "stat /node.toml", tmp_path / "data").stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_is_wrong_with_it(parts, disks, backend):
    copy_of(disks[backend], parts)
    assert verdicts(parts) == dict.fromkeys(LOOKS, "good")


def test_what_is_wrong_is_seen_from_outside(parts, disks):
    """One bit each in the boot code, the core, the kernel and the root, and a slot state without a slot: all in one look."""
    machine = copy_of(disks["direct"], parts)
    kernel = bytearray((parts / "vmlinuz").read_bytes())
    kernel[-1] ^= 1
    machine.put("drover/a/vmlinuz", bytes(kernel))
    machine.put("drover/slot-state", machine.get("drover/slot-state").replace(b"a_tries=3", b"a_tries=0"))
    with open(machine.path, "r+b") as file:
        for at in (10, MIB + 20_000, ROOT_A * MIB + 2 * MIB):
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1]))
    found = verdicts(parts)
    assert {look for look, problem in found.items() if problem != "good"} == \
        {"loader for BIOS", "loader and kernels", "slot state", "root A", "root A under verity"}, found
    assert found["loader and kernels"] == "drover/a/vmlinuz has other bytes than vmlinuz"
    assert "dm-verity" in found["root A under verity"]


def verify(image, keys, *options):
    with no_time_limit():
        result = subprocess.run(["drover", "--json", "image", "verify", image, "--keys", keys, *options], text=True, capture_output=True,
                                stdin=subprocess.DEVNULL, timeout=1200)
    document = json.loads(result.stdout)
    assert document["good"] == (result.returncode == 0)
    return {check["name"]: check["problem"] for check in document["checks"]}


def test_verify_looks_into_the_disk_of_an_image(parts, tmp_path):
    """What is wrong on the disk alone: its own SHA-256 tells that, and the look from outside tells where."""
    image, keys = tmp_path / "image", tmp_path / "keys"
    with open(tmp_path / "data", "wb") as file:
        file.write((parts / "root.img").read_bytes()[:int((parts / "hash-offset").read_text())])
    words = [f"{name}={parts / name}" for name in ("vmlinuz", "initrd", "boot.cfg")] + [f"root.img={tmp_path}/data"]
    run("image_sample", keys, image, "2026112801", "--disk", *words)
    found = verify(image, keys)
    assert set(found.values()) == {""}
    assert [name for name in found if name.startswith("disk.img: ")] == [f"disk.img: {look}" for look in LOOKS]
    machine = Machine((image / "disk.img").rename(tmp_path / "disk.img"), ESP * MIB // 512)
    kernel = bytearray((parts / "vmlinuz").read_bytes())
    kernel[-1] ^= 1
    machine.put("drover/a/vmlinuz", bytes(kernel))
    with open(machine.path, "r+b") as file:
        file.seek(ROOT_A * MIB + 2 * MIB)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    machine.path.rename(image / "disk.img")
    found = verify(image, keys)
    assert {name for name, problem in found.items() if problem} == \
        {"disk.img"} | {f"disk.img: {look}" for look in ("loader and kernels", "root A", "root A under verity")}
    assert found["disk.img: loader and kernels"] == "drover/a/vmlinuz has other bytes than vmlinuz"
    only = verify(image, keys, "--parts-only")
    assert {name for name, problem in only.items() if problem} == {"disk.img"} and not any(": " in name for name in only)


@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_nobody_composes_the_same_bytes(parts, tmp_path, kind):
    """Not root, no loop device, no mount: and every byte is as when root composes it."""
    for user in ("root", "nobody"):
        directory = tmp_path / user
        shutil.copytree(parts, directory, ignore=shutil.ignore_patterns("*.img.*", "direct.img", "guestfs.img", "disk.img", "tree"))
        run("chown", "-R", user, directory)
        for parent in (tmp_path, *list(tmp_path.parents)[:2]):
            parent.chmod(0o755)
        program = shutil.which("disk_model")
        words = ["setpriv", "--reuid", user, "--clear-groups", "--no-new-privs", "--bounding-set=-all"] if user != "root" else []
        run(*words, program, "direct", directory, kind)
    run("cmp", tmp_path / "root/disk.img", tmp_path / "nobody/disk.img")
