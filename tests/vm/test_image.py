"""A host image that users build, on a machine's disk: it boots to a healthy node, and a slot that is broken gives way to the other one."""

import json
import re
from pathlib import Path

import pytest
from image_builds import packages, run  # noqa: F401: a fixture
from loader import choices
from node_images import BOOT_S, CONFIRMED, Image, Node, image, start_of  # noqa: F401: a fixture

pytestmark = [pytest.mark.slow, pytest.mark.limit(600)]

# What a node does today with the parts of an image to fill its slot b; an update over the network is to do it.
FILL_B = """set -e
drover-node slot mark-bad b
dd if=/dev/disk/by-partlabel/drover-root-a of=/dev/disk/by-partlabel/drover-root-b bs=1M conv=fsync status=none
cp /boot/efi/drover/a/* /boot/efi/drover/b/
sync -f /boot/efi
drover-node slot activate b
"""


def status(node, check=True):
    return json.loads(node.ssh("drover-node --json status", check=check))


def comes_up_in_memory(node):
    """Started from the network: verified and healthy, and no slot of it."""
    node.sees("started from the network", 400)
    node.sees("login:")
    seen = status(node)
    assert seen["healthy"] and seen["slot"] is None and seen["slots"] is None
    assert seen["root"]["state"] == "verified" and seen["image"]["name"] == "tested"


def flip_a_bit(image, disk, partition, path):  # noqa: F811
    """Of what that file of the root holds."""
    listed = run("dump.erofs", f"--path={path}", "-e", image.at("root.img")).stdout
    extent = re.search(r"^\s*\d+:\s+\d+\.\.\s*\d+ \|\s+\d+ :\s+(\d+)\.\.", listed, re.MULTILINE)
    offset = start_of(disk, partition) * 512 + int(extent.group(1)) + 100
    with open(disk, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_verify_finds_it_good_and_a_changed_disk_bad(image, tmp_path):  # noqa: F811
    verify = ("drover", "--json", "--state-dir", image.state, "image", "verify")
    seen = json.loads(run(*verify, image.directory).stdout)
    assert seen["good"] and "disk.img: root A under verity" in [check["name"] for check in seen["checks"]]
    run("cp", "-a", "--sparse=always", image.directory, tmp_path / "changed")
    flip_a_bit(image, tmp_path / "changed/disk.img", "drover-root-a", "/usr/lib/systemd/systemd")
    failed = run(*verify, tmp_path / "changed", check=False)
    bad = [check["name"] for check in json.loads(failed.stdout)["checks"] if not check["good"]]
    assert failed.returncode == 1 and bad == ["disk.img", "disk.img: root A", "disk.img: root A under verity"], failed.stdout


@pytest.mark.parametrize("firmware", BOOT_S)
def test_it_boots_to_a_login_and_is_healthy(image, tmp_path, firmware):  # noqa: F811
    with Node(image, tmp_path, "login", firmware) as node:
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        node.sees("login:")
        seen = status(node)
        manifest = json.loads(Path(image.at("manifest.json")).read_text())
        assert seen["healthy"] and seen["slot"] == "a" and seen["root"] == {"state": "verified", "hash": manifest["root"]["root_hash"]}
        assert seen["image"] == {"name": "tested", "version": manifest["version"]}
        assert all(check["good"] for check in seen["checks"])
        assert seen["data"]["bytes"] > 1 << 30  # has grown to its disk
        assert node.ssh("systemctl is-system-running").strip() == "running"
        assert node.ssh("systemctl --failed --quiet") == ""
        # For shorter freezes of boxes.
        assert "[madvise]" in node.ssh("cat /sys/kernel/mm/transparent_hugepage/enabled")
        node.power_down()


@pytest.fixture(scope="module")
def rack(packages, tmp_path_factory):  # noqa: F811
    """With Debian's kernel for all machines, whose drivers and file systems are modules."""
    return Image(tmp_path_factory.mktemp("rack"), packages, """
hardware = ["nvme", "ahci", "megaraid_sas", "e1000e", "igb", "e1000"]

[kernel]
package = "linux-image-amd64"

[root]
compression = "zstd,1"
""")


@pytest.mark.parametrize(("disk", "network"), [("nvme,serial=1", "e1000e"), ("ide-hd", "igb"),
                                               ("megasas-gen2,id=raid scsi-hd,bus=raid.0", "e1000")])
def test_it_boots_from_the_hardware_of_servers(rack, tmp_path, disk, network):
    with Node(rack, tmp_path, network, disk=disk, network=network) as node:
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        assert status(node)["healthy"]
        node.power_down()
        assert "cannot load the module" not in node.said


def test_it_boots_from_the_network_without_a_disk(image, tmp_path):  # noqa: F811
    with Node(image, tmp_path, "network") as node:
        node.on(server=True, disk=False)
        comes_up_in_memory(node)
        assert node.ssh("systemctl is-system-running").strip() == "running"
        assert set(name.rstrip("0123456789") for name in node.ssh("ls /sys/block").split()) == {"dm-", "loop"}
        node.power_down()


def test_a_flipped_bit_leads_to_the_other_slot_and_then_to_rescue(image, tmp_path):  # noqa: F811
    with Node(image, tmp_path, "flipped") as node:
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        node.ssh(FILL_B, seconds=120)
        node.power_down()
        node.on()
        node.sees(f"slot b {CONFIRMED}")
        assert set(choices(node.said)) == {"b"} and status(node)["healthy"]
        # An update of slot a, and while the power is off a bit of it goes wrong.
        node.ssh("drover-node slot mark-bad a && drover-node slot activate a --tries 2")
        node.power_down()
        flip_a_bit(image, node.path, "drover-root-a", "/usr/lib/systemd/systemd")
        for _ in range(2):
            node.on()
            node.resets()
            assert set(choices(node.said)) == {"a"} and "corrupted" in node.said, node.said[-2000:]
        node.on()
        node.sees(f"slot b {CONFIRMED}")
        assert set(choices(node.said)) == {"b"} and status(node)["healthy"]
        assert [slot["tries"] for slot in status(node)["slots"]] == [0, 3]
        node.power_down()
        # Both are bad.
        flip_a_bit(image, node.path, "drover-root-b", "/usr/lib/systemd/systemd")
        for _ in range(3):
            node.on()
            node.resets()
            assert set(choices(node.said)) == {"b"}
        node.on()
        node.sees("drover: rescue")
        node.sees("iPXE initialising devices")


def test_a_trial_that_is_ill_gives_way_and_a_node_that_hangs_starts_again(image, tmp_path):  # noqa: F811
    with Node(image, tmp_path, "ill") as node:
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        node.ssh(FILL_B, seconds=120)
        node.ssh("rm -rf /var/lib/drover/boxes && touch /var/lib/drover/boxes")
        node.power_down()
        node.on()
        node.resets()
        assert set(choices(node.said)) == {"b"}
        assert "boxes: " in node.said and "slot b is not healthy, and marked bad: the other slot boots next" in node.said
        # The other one is ill as well, and was proven.
        node.on()
        node.sees("slot a is not healthy, and stays")
        seen = status(node, check=False)
        assert set(choices(node.said)) == {"a"} and not seen["healthy"]
        assert [slot["health"] for slot in seen["slots"]] == ["confirmed", "bad"]
        node.ssh("rm /var/lib/drover/boxes && drover-node confirm")
        # The machine has no watchdog: it is the kernel's own.
        node.ssh("kill -SEGV 1")
        node.resets()
        assert "softdog: Initiating system reboot" in node.said, node.said[-2000:]


@pytest.mark.parametrize("firmware", BOOT_S)
def test_rescue_starts_what_the_boot_server_has(image, tmp_path, firmware):  # noqa: F811
    with Node(image, tmp_path, "rescue", firmware) as node:
        state = node.get("drover/slot-state")
        bad = state.rstrip(b"#").replace(b"a_health=trial\na_tries=3", b"a_health=bad\na_tries=0").ljust(len(state), b"#")
        assert bad != state
        node.put("drover/slot-state", bad)
        node.on(server=True)
        comes_up_in_memory(node)
        assert set(choices(node.said)) == {"rescue"}
