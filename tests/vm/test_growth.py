"""A node's first boot makes its data partition as large as its disk. Power is cut at every write of that, and within it: no partition
is lost, nothing that was on it either, and the next boot goes on."""

import hashlib
import struct
import zlib

import pytest
from conftest import no_time_limit
from disk_log import writes
from fat import SECTOR
from image_builds import packages, run  # noqa: F401: a fixture
from node_images import CONFIRMED, DISK_BYTES, Image, Node, image  # noqa: F401: a fixture
from test_image import status

pytestmark = [pytest.mark.slow, pytest.mark.limit(600)]

LAST = DISK_BYTES // SECTOR - 1
TABLE = 34  # sectors of a table, at either end of a disk
KEPT = bytes(range(256)) * 4096


class Ends:
    """Both ends of a disk, where the partition tables are (UEFI 2.10, 5.3)."""

    def __init__(self, path):
        with open(path, "rb") as disk:
            self.sectors = {at: disk.read(SECTOR) for at in range(TABLE)}
            disk.seek((LAST + 1 - TABLE) * SECTOR)
            self.sectors |= {LAST + 1 - TABLE + at: disk.read(SECTOR) for at in range(TABLE)}

    def apply(self, offset, data):
        """Sector by sector; after each of them that is a part of a table, and another one than before."""
        for at in range(0, len(data), SECTOR):
            sector, content = (offset + at) // SECTOR, data[at:at + SECTOR]
            if self.sectors.get(sector, content) != content:
                self.sectors[sector] = content
                yield

    def table(self, at):
        """Name: (first sector, last sector), or None where its sums are not those that it has."""
        header = bytearray(self.sectors[at][:92])
        magic, size, total, own, first, count, entry, entries_sum = struct.unpack("<8s4xII4xQ40xQIII", header)
        header[16:20] = bytes(4)
        if (magic, size, own) != (b"EFI PART", 92, at) or zlib.crc32(header) != total:
            return None
        entries = b"".join(self.sectors[sector] for sector in range(first, first + count * entry // SECTOR))
        if zlib.crc32(entries) != entries_sum:
            return None
        each = [entries[i:i + entry] for i in range(0, len(entries), entry)]
        return {one[56:128].decode("utf-16-le").rstrip("\0"): struct.unpack_from("<QQ", one, 32) for one in each if any(one[:16])}

    def seen_by_linux(self):
        """With "gpt" on its command line: block/partitions/efi.c."""
        return self.table(1) or self.table(LAST)


@pytest.fixture(scope="module")
def grown(image, tmp_path_factory):  # noqa: F811
    """A disk before its first boot, with a file among its data, and all that this boot has written to it."""
    directory = tmp_path_factory.mktemp("growth")
    with no_time_limit(), Node(image, directory, "growth") as node:
        (directory / "kept").write_bytes(KEPT)
        run("debugfs", "-w", "-R", f"write {directory}/kept kept", f"{node.path}?offset={node.start_of('drover-data') * SECTOR}")
        before = directory / "before.img"
        run("cp", "--sparse=always", node.path, before)
        node.log = directory / "log"
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        node.off()
        return before, writes(node.log)


def test_at_every_cut_there_is_a_partition_table(grown):
    before, log = grown
    ends = Ends(before)
    first = ends.table(1)
    assert len(first) == 5 and ends.table(LAST) is None
    start, end = first.pop("drover-data")
    data = [(start, end)]
    for offset, content in log:
        for _ in ends.apply(offset, content):
            now = ends.seen_by_linux()
            data.append(now.pop("drover-data"))
            assert now == first
    assert len(set(data)) == 2 and data[-1][0] == start and data[-1][1] > LAST - 2 * 2048
    assert ends.table(1) == ends.table(LAST)


def middle_of_the_first_table(before, log):
    """Of the first write that changes it, so much that neither the old sums nor the new ones are right."""
    ends = Ends(before)
    for k, (offset, content) in enumerate(log):
        for sectors in range(1, len(content) // SECTOR + 1):
            for _ in ends.apply(offset + (sectors - 1) * SECTOR, content[(sectors - 1) * SECTOR:sectors * SECTOR]):
                if ends.table(1) is None:
                    return k, sectors
    raise AssertionError("the first table is whole at all times")


def middle_of_the_file_system(before, log):
    """Half of the writes to what the data partition has got are done."""
    end = Ends(before).table(1)["drover-data"][1]
    new = [k for k, (offset, _) in enumerate(log) if end < offset // SECTOR < LAST + 1 - TABLE]
    assert len(new) > 1
    return new[len(new) // 2], 0


@pytest.mark.parametrize("cut, firmware", [(middle_of_the_first_table, "seabios"), (middle_of_the_first_table, "ovmf"),
                                           (middle_of_the_file_system, "seabios")], ids=["table-seabios", "table-ovmf", "file-system"])
def test_after_a_cut_it_grows_to_its_end(grown, image, tmp_path, request, cut, firmware):  # noqa: F811
    before, log = grown
    whole, sectors = cut(before, log)
    with Node(image, tmp_path, f"growth-{request.node.callspec.id}", firmware) as node:
        run("cp", "--sparse=always", before, node.path)
        with open(node.path, "r+b") as disk:
            for offset, content in [*log[:whole], (log[whole][0], log[whole][1][:sectors * SECTOR])]:
                disk.seek(offset)
                disk.write(content)
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        assert status(node)["data"]["bytes"] > 1 << 30
        assert node.ssh("sha256sum </var/lib/drover/kept").split()[0] == hashlib.sha256(KEPT).hexdigest()
        node.power_down()
    ends = Ends(node.path)
    assert ends.table(1) == ends.table(LAST) is not None


def test_data_on_xfs(packages, tmp_path):  # noqa: F811
    """Grown as well, and there after the power was cut."""
    node_xfs = Image(tmp_path, packages, """packages = ["xfsprogs"]

[data]
file_system = "xfs"

[root]
compression = "zstd,1"
""")
    with Node(node_xfs, tmp_path, "xfs") as node:
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        assert node.ssh("findmnt -no FSTYPE /var/lib/drover").strip() == "xfs"
        assert status(node)["healthy"] and status(node)["data"]["bytes"] > 1 << 30
        assert node.ssh("systemctl --failed --quiet") == ""
        node.ssh("echo kept >/var/lib/drover/kept; sync -f /var/lib/drover/kept")
        node.off()
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        assert node.ssh("cat /var/lib/drover/kept") == "kept\n"
        node.power_down()
