"""A private layer that is an image: an ext4 of its own in a file, on a loop device. It moves by changed blocks."""

import json
import os
import random

import pytest
from boxes import STATE, Boxes
from conftest import until
from moves import Box, Counter, Halted, increments_on_disk

MIB = 1 << 20
IMAGE = ("--volume", "image:512M")


@pytest.fixture
def boxes(lab, templates):
    with Boxes(lab) as made:
        yield made


@pytest.fixture
def make_box(lab, templates):
    made = []

    def make(name, template, number, *options):
        made.append(Box(lab, name, template, number))
        return made[-1].start("node1", *options)

    yield make
    lab.mend()
    for box in made:
        box.destroy()


def loops(lab):
    return [thing for thing in lab.inventory() if thing.startswith("loop device") and "/volume/image" in thing]


def image_of(boxes, name):
    return boxes.node.path(f"{STATE}/boxes/{name}/volume/image")


def test_life(boxes, lab):
    made = boxes.create("web1", "shell", *IMAGE)
    assert made["volume"] == "image:512M" and made["state"] == "stopped" and loops(lab) == []
    image = image_of(boxes, "web1").stat()
    assert image.st_size == 512 * MIB and image.st_blocks * 512 < 8 * MIB
    boxes.drover("box", "start", "web1")
    assert len(loops(lab)) == 1
    boxes.sh("web1", "echo kept >/srv/file; echo logged >/proc/1/fd/1; rm /etc/hosts; dd if=/dev/urandom of=/srv/big bs=1M count=64")
    boxes.sh("web1", "chown 33:44 /srv/file; sync")
    assert image_of(boxes, "web1").stat().st_blocks * 512 > 64 * MIB
    boxes.drover("box", "stop", "web1")
    until("its loop device goes", lambda: loops(lab) == [])
    assert set(boxes.remains("web1")) == {f"{STATE}/boxes/web1"}
    assert "logged" in boxes.drover("box", "log", "web1").stdout  # nothing is mounted
    assert loops(lab) == []
    boxes.drover("box", "start", "web1")
    assert boxes.sh("web1", "cat /srv/file; stat -c %u:%g /srv/file; [ -e /etc/hosts ] || echo no hosts") == "kept\n33:44\nno hosts\n"
    # What is deleted is a hole again.
    boxes.sh("web1", "rm /srv/big; sync")
    until("the image shrinks", lambda: boxes.sh("web1", "sync") == "" and image_of(boxes, "web1").stat().st_blocks * 512 < 32 * MIB)
    boxes.drover("box", "destroy", "--force", "web1")
    until("its loop device goes", lambda: loops(lab) == [])
    assert boxes.list() == [] and boxes.remains("web1") == []


def test_it_is_full(boxes):
    """The box sees the end of its own disk, and no other."""
    boxes.start("web1", "shell", "--volume", "image:64M")
    said = boxes.run("web1", "sh", "-c", "dd if=/dev/zero of=/srv/big bs=1M count=100", check=False)
    assert said.returncode != 0 and "No space left on device" in said.stderr
    assert boxes.sh("web1", "rm /srv/big; echo fits >/srv/file; cat /srv/file") == "fits\n"


def test_device_is_out_of_reach(boxes):
    boxes.start("web1", "shell", *IMAGE)
    assert boxes.sh("web1", "ls /dev | grep -c loop || :") == "0\n"
    loop = os.path.basename(next(line for line in boxes.node.exec("losetup", "-n", "-O", "NAME,BACK-FILE").stdout.splitlines()
                                 if "web1/volume/image" in line).split()[0])
    number = loop.removeprefix("loop")
    made = boxes.run("web1", "sh", "-c", f"mknod /root/disk b 7 {number} && head -c 4096 /root/disk", check=False)
    assert made.returncode != 0 and "ermitted" in made.stderr


@pytest.mark.parametrize("volume, said", [
    ("disk", "'disk' is no volume: it is neither dir nor image:SIZE"),
    ("image", "'image' is no volume: it is neither dir nor image:SIZE"),
    ("image:", "'image:' is no volume: its size is not a number with M or G"),
    ("image:12", "'image:12' is no volume: its size is not a number with M or G"),
    ("image:-1G", "'image:-1G' is no volume: its size is not a number with M or G"),
    ("image:99999999999G", "'image:99999999999G' is no volume: its size is not a number with M or G"),
    ("image:63M", "'image:63M' is no volume: images have 64M to 32G"),
    ("image:33G", "'image:33G' is no volume: images have 64M to 32G")])
def test_no_volume(boxes, volume, said):
    error = boxes.fails("create", "web1", "--template", "shell", "--ip", "10.77.0.70/24", "--volume", volume, status=2)
    assert error.startswith(f"error: {said}\nhint: ")
    assert boxes.remains("web1") == []


def test_no_room(boxes):
    boxes.node.exec("mkdir", "-p", f"{STATE}/boxes")
    boxes.node.exec("mount", "-t", "tmpfs", "-o", "size=100m", "small", f"{STATE}/boxes")
    try:
        error = boxes.fails("create", "web1", "--template", "shell", "--ip", "10.77.0.70/24", "--volume", "image:200M")
        assert error.startswith("error: box web1 wants a volume of 200 MiB, and ")
        assert boxes.remains("web1") == []
    finally:
        boxes.node.exec("umount", f"{STATE}/boxes")


def test_image_is_gone(boxes):
    boxes.create("web1", "shell", *IMAGE)
    image_of(boxes, "web1").unlink()
    assert "the volume of box web1 is not there: " in boxes.fails("start", "web1")
    assert boxes.state("web1") == "stopped"


@pytest.mark.limit(240)
def test_moves_there_and_back(lab, make_box):
    """What a database was told is on disk, is in the image, under a client that writes all the time."""
    box = make_box("store", "redis", 60, *IMAGE).answers(6379)
    client = Counter(lab, box.ip4)
    for mode in ("auto", "stop", "postcopy"):
        report = box.migrate("--mode", mode)
        assert report["outcome"] == "moved"
        client.check()
        assert box.show()["volume"] == "image:512M"
        until("the other node's loop device goes", lambda: len(loops(lab)) == 1)
    acknowledged = client.finish()
    assert increments_on_disk(box) >= acknowledged
    here = box.node()
    lab.exec(here, "drover-node", "box", "stop", box.name)
    until("its loop device goes", lambda: loops(lab) == [])
    # The file system in it is whole.
    lab.exec(here, "e2fsck", "-fn", f"{STATE}/boxes/{box.name}/volume/image")


@pytest.mark.limit(240)
def test_changed_blocks(lab, make_box, tmp_path):
    """Of 256 MiB one hundredth changes after the last round: so much is sent in the freeze, and a little more."""
    box = make_box("store", "shell", 60, *IMAGE)
    box.exec("sh", "-c", "dd if=/dev/urandom of=/srv/big bs=1M count=256; sync")
    inside = f"/proc/{box.show()['pid']}/root/srv/big"
    move = Halted(box, "source.rounds", tmp_path)
    choice = random.Random(7)
    with open(inside, "r+b") as big:
        for page in choice.sample(range(256 * MIB // 4096), 655):
            os.pwrite(big.fileno(), choice.randbytes(4096), page * 4096)
    with open(inside, "rb") as big:
        before = hash(big.read())
    assert move.go_on() == 0, move.err
    phases = {phase["name"]: phase for phase in json.loads(move.out)["phases"]}
    print({name: (phase["ms"], phase["bytes"]) for name, phase in phases.items()})
    assert phases["round 0"]["bytes"] > 256 * MIB
    assert 655 * 4096 < phases["last round"]["bytes"] < 0.03 * 256 * MIB
    with open(f"/proc/{box.show()['pid']}/root/srv/big", "rb") as big:
        assert hash(big.read()) == before


def test_checkpoint(lab, make_box, tmp_path):
    box = make_box("store", "shell", 60, *IMAGE)
    box.exec("sh", "-c", "echo kept >/srv/file")
    lab.exec("node1", "drover-node", "box", "checkpoint", box.name, tmp_path / "box.ckpt", "--stop")
    until("its loop device goes", lambda: loops(lab) == [])
    lab.exec("node1", "drover-node", "box", "restore", tmp_path / "box.ckpt")
    assert box.show()["volume"] == "image:512M" and len(loops(lab)) == 1
    assert box.exec("cat", "/srv/file").stdout == "kept\n"
