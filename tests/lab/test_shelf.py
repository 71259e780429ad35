"""A box goes into a file and comes back from it, on this node or another; never twice, and never from a file that is not
what a trusted node wrote."""

import base64
import hashlib
import json
import os
import signal
import struct

import pytest
from conftest import lines, until
from moves import DROVER, Box, Counter, Redis, criu_that_dumps, hung, nothing_remains, processes, recover, started_processes, state
from test_move_files import difference, dump, in_box, make_files

SAVED = ["box", "file", "outcome", "epoch", "bytes", "total_ms", "freeze_ms", "phases"]
SAVE_POINTS = ["checkpoint.saving", "checkpoint.rounds", "checkpoint.frozen", "checkpoint.dumped", "checkpoint.thawed",
               "checkpoint.written", "checkpoint.named"]
RESTORE_POINTS = ["restore.verified", "destination.arriving", "restore.received", "restore.restored",
                  # here it becomes this node's
                  "destination.mine", "destination.running", "destination.named"]


@pytest.fixture
def before(lab):
    return lab.inventory()


@pytest.fixture
def make_box(lab, templates, before):
    made = []

    def make(name, template, number):
        made.append(Box(lab, name, template, number))
        return made[-1].start()

    yield make
    lab.mend()
    for node in lab.nodes:
        lab.exec(node, "drover-node", "recover", check=False)
        for kind in ("given", "node-keys"):
            for path in lab.node(node).path(f"{DROVER}/{kind}").glob("*"):
                path.unlink()
    for box in made:
        box.destroy()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "files" / "box.ckpt"


@pytest.fixture
def save(lab, file):
    """save(BOX, ...) checkpoints it to FILE and returns the report, or the CompletedProcess when it has failed. The
    nodes trust each other."""
    file.parent.mkdir()

    def save(box, *words, node="node1", check=True):
        result = lab.exec(node, "drover-node", "--json", "box", "checkpoint", box.name, file, *words, check=False)
        trust(lab)
        if not check:
            return result
        assert result.returncode == 0, result.stderr
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        return json.loads(result.stdout)

    return save


def trust(lab):
    for node in lab.nodes:
        ours = lab.node(node).path(f"{DROVER}/node-keys/local.pub")
        for other in set(lab.nodes) - {node} if ours.exists() else ():
            keys = lab.node(other).path(f"{DROVER}/node-keys")
            keys.mkdir(exist_ok=True)
            (keys / f"{node}.pub").write_bytes(ours.read_bytes())


def restore(lab, file, *words, node="node2"):
    return lab.json(node, "drover-node", "--json", "box", "restore", file, *words)


def refused(lab, file, *words, node="node2"):
    """One sentence and one hint; and nothing of a box is there that was not there before."""
    before = lab.inventory()
    boxes = lab.exec(node, "drover-node", "box", "list").stdout
    result = lab.exec(node, "drover-node", "box", "restore", file, *words, check=False)
    said = [line for line in result.stderr.splitlines() if not line.startswith("verify")]
    assert (result.returncode, result.stdout, len(said)) == (1, "", 2), result
    assert said[0].startswith("error: ")
    assert said[1].startswith("hint: ")
    assert lab.inventory() == before
    assert lab.exec(node, "drover-node", "box", "list").stdout == boxes
    return said[0].removeprefix("error: ")


def destroy(lab, box, node="node1"):
    lab.exec(node, "drover-node", "box", "destroy", "--force", box.name)


@pytest.mark.limit(120)
def test_redis_is_as_it_was_at_the_checkpoint(lab, make_box, save, file, before):
    box = make_box("shelf", "redis", 60).answers(6379)
    redis = Redis(lab, box.ip4)
    redis("SET", "mark", "before")
    run_id = [line for line in redis("INFO", "server").splitlines() if line.startswith(b"run_id")]
    client = Counter(lab, box.ip4)
    client.check()
    old = box.show()
    report = save(box)
    assert list(report) == SAVED
    assert [report[key] for key in SAVED[:4]] == ["shelf", str(file), "saved", old["epoch"]]
    assert report["bytes"] == file.stat().st_size
    assert 0 < report["freeze_ms"] < report["total_ms"]
    assert file.stat().st_mode & 0o777 == 0o600
    # It goes on, with its connections, and nothing is left of the checkpoint.
    client.check()
    assert redis("SET", "mark", "after") == b"OK"
    assert box.show() == old
    assert not lab.node("node1").path("/run/drover/boxes/shelf/images").exists()
    assert not (box.upper().parents[1] / "move.journal").exists()
    counted = client.finish()
    redis.close()
    destroy(lab, box)
    nothing_remains(lab, box, "node1", before)

    report = restore(lab, file)
    assert [report[key] for key in ("box", "outcome", "epoch")] == ["shelf", "restored", old["epoch"] + 1]
    assert box.states() == {"node2": "running"}
    new = box.show()
    for key in ("name", "template", "addresses", "mac", "gateways", "layers", "id_base"):
        assert new[key] == old[key], key
    again = Redis(lab, box.ip4)
    assert again("GET", "mark") == b"before"
    assert 0 < int(again("GET", "count")) < counted
    assert [line for line in again("INFO", "server").splitlines() if line.startswith(b"run_id")] == run_id
    until("the old connections are gone", lambda: len(again("CLIENT", "LIST").splitlines()) == 1)
    again("SET", "mark", "again")
    box.migrate()
    assert again("GET", "mark") == b"again"


@pytest.mark.limit(120)
def test_the_shelf(lab, make_box, save, file, before):
    """--stop: the box is in the file only. It comes back with a higher epoch, and an older copy is refused."""
    box = make_box("shelf", "redis", 60).answers(6379)
    redis = Redis(lab, box.ip4)
    redis("SET", "mark", "older")
    save(box)
    older = file.with_name("older")
    file.rename(older)
    redis("SET", "mark", "newer")
    report = lab.json("node1", "drover-node", "--json", "box", "checkpoint", box.name, file, "--stop")
    assert (report["outcome"], report["epoch"]) == ("shelved", 2)
    assert "freeze_ms" not in report
    assert box.states() == {}
    nothing_remains(lab, box, "node1", before)

    assert refused(lab, older, node="node1") == \
        "this node gave box shelf away (epoch 2) after this checkpoint was made (epoch 1)"
    assert restore(lab, file, node="node1")["epoch"] == 3
    assert Redis(lab, box.ip4)("GET", "mark") == b"newer"
    assert refused(lab, file, node="node1") == "there is a box shelf on node1 already"
    assert refused(lab, file, node="node2").startswith(f"box shelf runs already: it answers for {box.ip4} on the network of node2")
    destroy(lab, box)
    assert restore(lab, older, "--force", node="node1")["epoch"] == 3
    assert Redis(lab, box.ip4)("GET", "mark") == b"older"


def flipped(whole, at):
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:]


@pytest.mark.limit(120)
def test_what_is_not_as_it_was_written(lab, make_box, save, file):
    box = make_box("shelf", "shell", 60)
    save(box)
    destroy(lab, box)
    whole = file.read_bytes()
    bad = file.with_name("bad")
    name = str(bad)

    def says(content, node="node2"):
        bad.write_bytes(content)
        return refused(lab, bad, node=node)

    changed = f"{name} does not match its signature: it was changed after it was signed"
    header = 8 + 5 + struct.unpack_from("<I", whole, 9)[0]
    for at in (15, header - 10, header + 5 + 5 + 100, len(whole) // 2):
        assert says(flipped(whole, at)) in (changed, f"{name} is cut off: its signature is missing") or \
            says(flipped(whole, at)).startswith(f"{name} is damaged near byte "), at
    assert says(flipped(whole, 15)) == changed
    assert says(flipped(whole, 0)) == f"{name} is no checkpoint of a box"
    assert says(flipped(whole, 7)) == f"{name} is a checkpoint of another version of drover, or damaged"
    assert says(flipped(whole, 8)) == f"{name} is damaged near byte 13"
    assert says(flipped(whole, len(whole) - 3)) in (changed, f"the signature of {name} is not in minisign's format")
    for size in (0, 5):
        assert says(whole[:size]) == f"{name} is no checkpoint of a box"
    for size in (8, 12, 100, header, len(whole) // 2, len(whole) - 300, len(whole) - 1):
        assert says(whole[:size]) == f"{name} is cut off: its signature is missing", size
    assert says(whole + b"x") == f"{name} goes on for 1 bytes behind its signature"
    assert says(whole + whole) == f"{name} goes on for {len(whole)} bytes behind its signature"
    assert says(b"some text") == f"{name} is no checkpoint of a box"
    assert refused(lab, file.parent) == f"{file.parent} is not a regular file"
    assert refused(lab, file.with_name("none")).startswith(f"cannot open {file.with_name('none')}: No such file")

    # Another node's key: as good as any other change, until it is trusted.
    keys = lab.node("node2").path(f"{DROVER}/node-keys")
    (keys / "node1.pub").rename(keys / "node1.away")
    assert refused(lab, file) == f"{file} is not signed by a key that is trusted here"
    # The keys of templates are for templates.
    templates = lab.node("node2").path(f"{DROVER}/keys")
    (templates / "node1.pub").write_bytes((keys / "node1.away").read_bytes())
    assert refused(lab, file) == f"{file} is not signed by a key that is trusted here"
    (templates / "node1.pub").unlink()
    (keys / "node1.away").rename(keys / "node1.pub")
    assert restore(lab, file)["outcome"] == "restored"
    assert file.read_bytes() == whole


@pytest.mark.limit(90)
def test_the_format(lab, make_box, save, file):
    """As docs/formats/checkpoint-file.md has it, and the signature checked by other code than ours."""
    save(make_box("shelf", "shell", 60))
    whole = file.read_bytes()
    at, kinds = 8, []
    while at < len(whole):
        kind, size = struct.unpack_from("<BI", whole, at)
        kinds.append(kind)
        signature_at, at = at, at + 5 + size
    assert at == len(whole)
    assert (kinds[0], kinds[1], kinds[-1], kinds.count(64)) == (16, 20, 64, 1)
    assert kinds.count(20) == 2
    assert kinds.count(22) == 1
    _, signature, comment, _ = whole[signature_at + 5:].decode().splitlines()
    assert comment == "trusted comment: drover checkpoint of box shelf, epoch 1"
    signature = base64.b64decode(signature)
    _, key = lab.node("node1").path(f"{DROVER}/node-keys/local.pub").read_text().splitlines()
    key = base64.b64decode(key)
    assert (signature[:2], signature[2:10]) == (b"ED", key[2:10])
    for name, content in {"hash": hashlib.blake2b(whole[:signature_at]).digest(), "signature": signature[10:],
                          "key": bytes.fromhex("302a300506032b6570032100") + key[10:]}.items():  # RFC 8410
        file.with_name(name).write_bytes(content)
    lab.exec("node1", "openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", file.with_name("key"),
             "-rawin", "-in", file.with_name("hash"), "-sigfile", file.with_name("signature"))


@pytest.mark.limit(90)
@pytest.mark.parametrize("size, status", [("4k", 1), ("2m", 3)], ids=["at once", "while it writes the memory"])
def test_full_disk(lab, make_box, save, file, size, status):
    box = make_box("shelf", "redis", 60).answers(6379)
    client = Counter(lab, box.ip4)
    redis = Redis(lab, box.ip4)
    redis("CONFIG", "SET", "appendonly", "no")
    redis("SET", "large", os.urandom(6 << 20).hex())
    pid = box.show()["pid"]
    lab.exec("node1", "mount", "-t", "tmpfs", "-o", f"size={size}", "small", file.parent)
    try:
        inside = lab.node("node1").path(file.parent)
        (inside / "box.ckpt").write_text("what was there")
        result = save(box, check=False)
        assert [path.name for path in inside.iterdir()] == ["box.ckpt"]
        assert (inside / "box.ckpt").read_text() == "what was there"
    finally:
        lab.exec("node1", "umount", file.parent)
    assert result.returncode == status
    said = json.loads(result.stderr.splitlines()[-1])
    assert said["error"] == f"cannot write {file}: No space left on device"
    assert box.states() == {"node1": "running"}
    assert box.show()["pid"] == pid
    assert "frozen 0" in (lab.group / "node1/drover/shelf/cgroup.events").read_text()
    client.finish()
    redis.close()
    save(box)


def test_what_cannot_be_saved(lab, make_box, save, file):
    box = make_box("shelf", "shell", 60)

    def fails(name, path, *words):
        result = lab.exec("node1", "drover-node", "box", "checkpoint", name, path, *words, check=False)
        said = [line for line in result.stderr.splitlines() if not line.startswith("preflight")]
        assert (result.returncode, len(said), said[1][:6]) == (1, 2, "hint: "), result
        return said[0]

    assert fails("other", file) == "error: there is no box other on this node"
    assert fails("shelf", file.parent / "no/box") == f"error: there is no directory {file.parent}/no"
    assert fails("shelf", file.parent) == f"error: {file.parent} is there and is not a regular file"
    assert fails("shelf", "-") == "error: '-' is not the name of a file"
    assert box.states() == {"node1": "running"}
    lab.exec("node1", "drover-node", "box", "stop", "shelf")
    assert fails("shelf", file) == "error: box shelf is stopped, not running"
    assert list(file.parent.iterdir()) == []


def test_layers_that_are_not_here(lab, make_box, save, file):
    box = make_box("shelf", "shell", 60)
    save(box)
    [layer] = box.show()["layers"]
    destroy(lab, box)
    at = lab.state / "node2/layers/sha256" / (layer.removeprefix("sha256:") + ".erofs")
    at.rename(f"{at}.away")
    try:
        assert refused(lab, file) == f"layer {layer[:19]} of box shelf is not on this node"
    finally:
        os.rename(f"{at}.away", at)
    restore(lab, file)


class Paused:
    """A command stopped at a point (base/pause.h)."""

    def __init__(self, lab, node, point, *words):
        self.lab, self.node = lab, node
        self.child = lab.popen(node, "env", f"DROVER_PAUSE_AT={point}", "drover-node", "box", *words)
        until(f"it stops at {point}", self._stopped, timeout=30)

    def _stopped(self):
        if self.child.poll() is not None:
            raise AssertionError(f"it ended with {self.child.returncode}:\n{''.join(self.child.communicate())}")
        return state(self.child.pid) == "T"

    def end(self, *signals):
        for number in signals:
            os.kill(self.child.pid, number)
        self.child.communicate(timeout=60)
        return self.child.returncode


@pytest.mark.limit(90)
@pytest.mark.parametrize("stop", [(), ("--stop",)], ids=["", "stop"])
@pytest.mark.parametrize("point", SAVE_POINTS + ["checkpoint.given"])
def test_checkpoint_is_killed(lab, make_box, save, file, before, point, stop):
    if point == ("checkpoint.thawed" if stop else "checkpoint.given"):
        return  # it does not come there
    box = make_box("shelf", "redis", 60).answers(6379)
    client = Counter(lab, box.ip4)
    Paused(lab, "node1", point, "checkpoint", "shelf", str(file), *stop).end(signal.SIGKILL)
    assert box.states() == {"node1": "given" if point == "checkpoint.given" else "saving"}
    start = lab.exec("node1", "drover-node", "box", "start", "shelf", check=False)
    assert start.returncode == 1
    assert "drover-node recover" in start.stderr
    if point not in ("checkpoint.named", "checkpoint.given"):
        assert not file.exists()
    [(_, (out, _), status)] = recover(lab, ["node1"])
    [settled] = json.loads(out)
    assert (status, settled["settled"]) == (0, True)
    assert [path.name for path in file.parent.iterdir()] in ([], [file.name])
    if point == "checkpoint.given":
        assert settled["what"] == f"box shelf is in {file}, and no longer here"
        assert box.states() == {}
        nothing_remains(lab, box, "node1", before)
        trust(lab)
        assert restore(lab, file)["epoch"] == 3
        return
    assert settled["what"] == f"box shelf stays here: its checkpoint to {file} was not finished"
    assert box.states() == {"node1": "running"}
    client.check()
    save(box)
    client.finish()


@pytest.mark.limit(90)
@pytest.mark.parametrize("point", RESTORE_POINTS)
def test_restore_is_killed(lab, make_box, save, file, before, point):
    box = make_box("shelf", "redis", 60).answers(6379)
    Redis(lab, box.ip4)("SET", "mark", "saved")
    save(box, "--stop")
    Paused(lab, "node2", point, "restore", str(file)).end(signal.SIGKILL)
    mine = point in RESTORE_POINTS[RESTORE_POINTS.index("destination.mine"):]
    if point != "restore.verified":
        runs = point in ("destination.running", "destination.named")
        assert box.states() == {"node2": "settling" if runs else "arriving"}
    [(_, (out, _), status)] = recover(lab, ["node2"])
    assert status == 0
    said = [settled["what"] for settled in json.loads(out)]
    if mine:
        assert said == [f"box shelf runs here: it was restored from {file}"]
    else:
        assert said == ([] if point == "restore.verified" else
                        ["box shelf was not restored: what had come of it was removed"])
        assert box.states() == {}
        nothing_remains(lab, box, "node2", before)
        restore(lab, file)
    assert box.states() == {"node2": "running"}
    assert Redis(lab, box.ip4)("GET", "mark") == b"saved"


@pytest.mark.limit(90)
@pytest.mark.parametrize("point, status", [("checkpoint.rounds", 130), ("checkpoint.frozen", 3), ("checkpoint.thawed", 3),
                                           ("checkpoint.written", 3)])
def test_checkpoint_is_interrupted(lab, make_box, save, file, point, status):
    box = make_box("shelf", "redis", 60).answers(6379)
    client = Counter(lab, box.ip4)
    assert Paused(lab, "node1", point, "checkpoint", "shelf", str(file)).end(signal.SIGINT, signal.SIGCONT) == status
    assert list(file.parent.iterdir()) == []
    assert box.states() == {"node1": "running"}
    client.finish()


@pytest.mark.limit(90)
def test_checkpoint_is_interrupted_when_criu_hangs(lab, make_box, save, file):
    box = make_box("shelf", "redis", 60).answers(6379)
    client = Counter(lab, box.ip4)
    paused = Paused(lab, "node1", "checkpoint.frozen", "checkpoint", "shelf", str(file))
    criu = criu_that_dumps(lab, "node1")
    with hung(lab, "node1", criu):
        assert paused.end(signal.SIGINT, signal.SIGCONT) == 3
    assert list(file.parent.iterdir()) == []
    assert box.states() == {"node1": "running"}
    client.finish()


@pytest.mark.limit(90)
@pytest.mark.parametrize("point", ["restore.verified", "destination.arriving", "restore.received", "restore.restored"])
def test_restore_is_interrupted(lab, make_box, save, file, before, point):
    box = make_box("shelf", "shell", 60)
    save(box, "--stop")
    assert Paused(lab, "node2", point, "restore", str(file)).end(signal.SIGINT, signal.SIGCONT) == 130
    assert box.states() == {}
    nothing_remains(lab, box, "node2", before)


def test_file_is_changed_while_it_is_read(lab, make_box, save, file, before):
    box = make_box("shelf", "shell", 60)
    save(box, "--stop")
    paused = Paused(lab, "node2", "restore.verified", "restore", str(file))
    whole = file.read_bytes()
    with open(file, "r+b") as open_file:
        open_file.seek(len(whole) // 2)
        open_file.write(bytes([whole[len(whole) // 2] ^ 1]))
    assert paused.end(signal.SIGCONT) == 3
    assert box.states() == {}
    nothing_remains(lab, box, "node2", before)
    file.write_bytes(whole)
    restore(lab, file)


CONNECTIONS = """#!/bin/sh
nc -ll -p 99 -e cat &
sleep 0.5
mkfifo /root/silence
tail -f /dev/null >/root/silence &
(nc 127.0.0.1 99 </root/silence; echo $? >/root/inner-ended) &
(nc 10.77.0.250 98 </root/silence; echo $? >/root/outer-ended) &
"""


def test_connections_are_closed(lab, make_box, save, file):
    """Both kinds, outward and within the box; and what listens goes on listening."""
    peer = lab.popen("client", "python3", "-c", "import socket, time; s = socket.create_server(('10.77.0.250', 98)); "
                     "c = s.accept(); print('accepted', flush=True); time.sleep(1000)")
    box = make_box("shelf", "shell", 60)
    lab.exec("node1", "drover-node", "box", "stop", "shelf")
    script = box_upper(lab, "node1") / "etc/rc.local"
    script.parent.mkdir(exist_ok=True)
    script.write_text(CONNECTIONS)
    script.chmod(0o755)
    lab.exec("node1", "drover-node", "box", "start", "shelf")
    assert peer.stdout.readline() == "accepted\n"

    def established():
        net = f"/proc/{box.show()['pid']}/net"
        return [line for table in ("tcp", "tcp6") for line in lines(f"{net}/{table}")[1:] if line.split()[3] == "01"]

    until("all are connected", lambda: len(established()) == 3)  # the inner one has both ends there
    save(box)
    assert len(established()) == 3
    destroy(lab, box)
    restore(lab, file)
    ended = [box_upper(lab, "node2") / f"root/{kind}-ended" for kind in ("inner", "outer")]
    until("both have ended", lambda: all(path.exists() for path in ended))
    assert established() == []
    connection = lab.connect("client", box.ip4, 99)
    connection.sendall(b"hello\n")
    assert connection.recv(100) == b"hello\n"
    connection.close()


def box_upper(lab, node):
    return lab.node(node).path(f"{DROVER}/boxes/shelf/private/upper")


@pytest.mark.limit(120)
def test_private_layer_is_as_it_was(lab, make_box, save, file):
    """Every kind of file, on another node; and what it takes in the file is packed."""
    box = make_box("shelf", "shell", 60)
    in_box(box, make_files)
    (box.upper() / "phrases").write_text("as it was, and as it will be\n" * 400_000)
    old = dump(box.upper())
    assert len(old) > 100
    save(box)
    assert file.stat().st_size < (box.upper() / "phrases").stat().st_size / 2
    destroy(lab, box)
    restore(lab, file)
    new = dump(box.upper())
    if b"tmp" not in old:
        new.pop(b"tmp", None)  # CRIU had a directory there for a moment
    assert not difference(old, new), "\n".join(map(str, difference(old, new).items()))


@pytest.mark.limit(120)
def test_a_whole_system(lab, make_box, save, file):
    """Twenty processes, a database and a web server, on a node that has not seen them before."""
    box = make_box("shelf", "full", 60).answers(5432).answers(80)
    until("cron runs", lambda: "cron" in processes(box), timeout=40)
    running = started_processes(box)
    save(box)
    destroy(lab, box)
    restore(lab, file)
    assert processes(box) == running
    box.answers(5432).answers(80)
    assert box.exec("true").returncode == 0
