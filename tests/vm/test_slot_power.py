"""Power is cut at every write to the disk of a node that is updated, and within it: the loader always finds a slot that is whole.

The writes are those that reach the disk: of the loader, and of Linux with its file systems."""

import pytest
from conftest import no_time_limit
from disk_log import writes
from fat import SECTOR, Fat
from image_builds import packages, run  # noqa: F401: a fixture
from loader import choices
from node_images import CONFIRMED, Node, image  # noqa: F401: a fixture
from test_image import FILL_B

pytestmark = [pytest.mark.slow, pytest.mark.limit(900)]

STATE = "drover/slot-state"
FILES = ("vmlinuz", "initrd", "boot.cfg")


class Disk:
    """A disk as the log has it up to some write, and what a loader makes of it."""

    def __init__(self, node, image, directory):  # noqa: F811
        self.esp, self.roots = node.start_of("drover-esp") * SECTOR, {s: node.start_of(f"drover-root-{s}") * SECTOR for s in "ab"}
        self.esp_end = self.roots["a"]
        with open(image.at("disk.img"), "rb") as file:
            self.data = bytearray(file.read(node.start_of("drover-data") * SECTOR))
        self.root_image = image.at("root.img").read_bytes()
        self.files = {name: image.at(name).read_bytes() for name in FILES}
        self.sector = directory / "sector"
        self.choices = {}  # of a slot-state: asking the model takes a process
        self.looked_at = set()  # sectors of the ESP that the last judgement rests on
        self.whole_root = {slot: self.root_is_whole(slot) for slot in "ab"}

    def root_is_whole(self, slot):
        return self.data[self.roots[slot]:self.roots[slot] + len(self.root_image)] == self.root_image

    def apply(self, offset, data):
        if offset >= len(self.data):
            return  # of the data partition, which the loader does not read
        self.data[offset:offset + len(data)] = data
        for slot, start in self.roots.items():
            if offset < start + len(self.root_image) and offset + len(data) > start:
                self.whole_root[slot] = self.root_is_whole(slot)

    def torn(self, offset, data):
        """Applies the write sector by sector. After those that the loader could notice: how many have reached the disk."""
        if not (self.esp <= offset < self.esp_end):
            self.apply(offset, data)
            return
        for at in range(0, len(data), SECTOR):
            self.data[offset + at:offset + at + SECTOR] = data[at:at + SECTOR]
            if (offset + at - self.esp) // SECTOR in self.looked_at:
                yield at // SECTOR + 1

    def choice(self):
        """Which slot the loader starts, by the model that tests/vm/test_loader.py holds GRUB against; it must be whole."""
        fat = Fat(memoryview(self.data)[self.esp:self.esp_end])
        self.looked_at = set(range(fat.first // SECTOR))  # boot sector, FSInfo, both tables
        self.look(fat, STATE)
        state = fat.read(STATE)
        assert len(state) == SECTOR
        if state not in self.choices:
            self.sector.write_bytes(state)
            self.choices[state] = run("slot_model", "judge", self.sector).stdout.strip()
        slot = self.choices[state]
        if slot != "rescue":
            for name, content in self.files.items():
                self.look(fat, f"drover/{slot}/{name}")
                assert fat.read(f"drover/{slot}/{name}") == content, f"slot {slot} would be started with a broken {name}"
            assert self.whole_root[slot], f"slot {slot} would be started with a broken root"
        return slot

    def look(self, fat, path):
        clusters, _, directories = fat.find(path)
        for cluster in directories.union(clusters):
            start = fat.offset(cluster) // SECTOR
            self.looked_at.update(range(start, start + fat.per_cluster))


@pytest.fixture(scope="module")
def updated(image, tmp_path_factory):  # noqa: F811
    """A node that went from slot a to slot b, and the log of all that it has written."""
    directory = tmp_path_factory.mktemp("power")
    with no_time_limit(), Node(image, directory, "update") as node:
        node.log = directory / "log"
        node.on()
        node.sees(f"slot a {CONFIRMED}")
        node.ssh(FILL_B, seconds=120)
        node.power_down()
        node.on()
        node.sees(f"slot b {CONFIRMED}")
        node.ssh("drover-node slot mark-bad a")
        node.power_down()
        return node, writes(node.log)


def state_writes(node, log):
    """Where in the log the slots' state is written."""
    esp = node.start_of("drover-esp") * SECTOR
    with open(node.path, "rb") as disk:
        disk.seek(esp)
        fat = Fat(disk.read(node.start_of("drover-root-a") * SECTOR - esp))
    offset = esp + fat.offset(fat.find(STATE)[0][0])
    return [k for k, (at, data) in enumerate(log) if at <= offset < at + len(data)]


def test_every_cut_leaves_a_slot_that_is_whole(updated, image, tmp_path):  # noqa: F811
    node, log = updated
    disk = Disk(node, image, tmp_path)
    seen = [(disk.choice(), bytes(Fat(memoryview(disk.data)[disk.esp:disk.esp_end]).read(STATE)))]
    judged = 0
    for offset, data in log:
        for _ in disk.torn(offset, data):
            judged += 1
            now = (disk.choice(), bytes(Fat(memoryview(disk.data)[disk.esp:disk.esp_end]).read(STATE)))
            if now != seen[-1]:
                seen.append(now)
        disk.choice()
    # The loader counts a down, a is confirmed, b activated, counted down, confirmed, and a marked bad: nothing else was seen of it.
    assert [choice for choice, _ in seen] == ["a", "a", "a", "b", "a", "b", "b"], seen
    assert judged > len(seen)
    assert disk.data[disk.esp:disk.esp_end] == node.path.read_bytes()[disk.esp:disk.esp_end], "the log has not all writes"


def test_a_slot_that_is_activated_too_early_is_noticed(updated, image, tmp_path):  # noqa: F811
    """The judge of the test above, judged: on a disk on which only that write has come too soon."""
    node, log = updated
    disk = Disk(node, image, tmp_path)
    disk.apply(*log[state_writes(node, log)[2]])
    with pytest.raises((AssertionError, ValueError), match="no vmlinuz|broken"):
        disk.choice()


def middle_of_the_copy(node, log, events):
    """Half of the largest write to the ESP before slot b is activated."""
    esp, end = node.start_of("drover-esp") * SECTOR, node.start_of("drover-root-a") * SECTOR
    largest = max((k for k in range(events[1], events[2]) if esp <= log[k][0] < end), key=lambda k: len(log[k][1]))
    return largest, len(log[largest][1]) // SECTOR // 2


# The events, in order: the loader counts a, a is confirmed, b activated, counted, confirmed, a marked bad.
@pytest.mark.parametrize("cut, slot", [(middle_of_the_copy, "a"), (lambda _, log, events: (events[2] + 1, 0), "b"),
                                       (lambda _, log, events: (events[5] + 1, 0), "b")], ids=["copied", "activated", "marked-bad"])
def test_a_cut_disk_boots(updated, image, tmp_path, request, cut, slot):  # noqa: F811
    """A sample of them, to the end: with what Linux makes of its file systems, too."""
    node, log = updated
    events = state_writes(node, log)
    assert len(events) == 6
    whole, sectors = cut(node, log, events)
    with Node(image, tmp_path, f"cut-{request.node.callspec.id}") as machine:
        with open(machine.path, "r+b") as disk:
            for offset, data in [*log[:whole], *((offset, data[:sectors * SECTOR]) for offset, data in log[whole:whole + 1])]:
                disk.seek(offset)
                disk.write(data)
        machine.on()
        machine.sees(f"slot {slot} {CONFIRMED}")
        assert set(choices(machine.said)) == {slot}
