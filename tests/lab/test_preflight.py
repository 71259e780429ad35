"""What would make a move fail is found before it begins: one sentence, a hint, and the box never notices."""

import hashlib
import itertools
import json
import os
import re
import shutil

import pytest
from conftest import command_line, lines, until
from moves import DROVER, Box, Halted, nothing_remains, with_patience


@pytest.fixture
def box(lab, templates):
    before = lab.inventory()
    box = Box(lab, "stays", "shell", 40).start()
    yield box
    lab.mend()
    nothing_remains(lab, box, "node2", before)
    box.destroy()


def refused(box, *words, status=1, to="node2"):
    """The move is refused with one error line and one hint line, which are returned, and nothing has changed."""
    pid, journal = box.show()["pid"], box.upper().parents[1] / "move.journal"
    frozen = box.lab.group / "node1/drover" / box.name / "cgroup.events"
    result = box.lab.exec("node1", "drover-node", "box", "migrate", box.name, "--to", to, *with_patience(words), check=False)
    said = [line for line in result.stderr.splitlines() if not is_progress(line)]
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert len(said) == 2, result.stderr
    assert said[0].startswith("error: ")
    assert said[1].startswith("hint: ")
    assert box.node() == "node1"
    assert box.show()["pid"] == pid
    assert not journal.exists()
    assert "frozen 0" in frozen.read_text()
    return said[0].removeprefix("error: "), said[1].removeprefix("hint: ")


def is_progress(line):
    return re.sub(r"(?<=@)\d+", "", line.split(":")[0].split(" ...")[0]) in ("preflight", "layers", "sending shell@") and not line.startswith("error")


def test_unknown_node(box):
    error, hint = refused(box, to="nowhere")
    assert error.startswith("cannot reach drover-node on nowhere: ssh: Could not resolve hostname nowhere")
    assert hint.startswith("try `ssh nowhere drover-node --version`")


def test_node_without_ssh(lab, box):
    daemon = lab.node("node2").path("/run/sshd.pid").read_text().strip()
    lab.exec("node2", "kill", daemon)
    try:
        error, _ = refused(box)
    finally:
        lab.exec("node2", "/usr/sbin/sshd", "-E", "/run/sshd.log")
        until("sshd is up", lambda: lab.exec("node1", "ssh", "node2", "true", check=False).returncode == 0)
    assert error.startswith("cannot reach drover-node on node2: ssh: connect to host node2 port 22: Connection refused")


@pytest.mark.parametrize("rsh, error, status", [
    ("false", "cannot reach drover-node on node2: false ended with status 1", 1),
    ("sh -c 'echo no such key >&2; exit 3'", "cannot reach drover-node on node2: no such key", 1),
])
def test_transport_that_ends(box, rsh, error, status):
    assert refused(box, "--rsh", rsh, status=status)[0] == error


def test_transport_that_is_not_there(box):
    assert "/no/such/program" in refused(box, "--rsh", "/no/such/program")[0]


def test_transport_to_something_else(box):
    error, _ = refused(box, "--rsh", "sh -c 'echo hello world; cat >/dev/null'")
    assert error == 'node2 sent a frame of the unknown type 104 while we waited for "offer"'


def test_name_is_taken(lab, box):
    lab.exec("node2", "drover-node", "box", "create", box.name, "--template", "shell", "--ip", "10.77.0.41/24")
    try:
        result = lab.exec("node1", "drover-node", "box", "migrate", box.name, "--to", "node2", check=False)
    finally:
        lab.exec("node2", "drover-node", "box", "destroy", box.name)
    assert result.returncode == 1
    assert result.stderr.count("error: ") == 1
    assert "error: there is a box stays on node2 already\nhint: " in result.stderr
    assert box.node() == "node1"


def test_address_is_in_use_by_a_stopped_box(lab, box):
    lab.exec("node1", "drover-node", "box", "stop", box.name)
    lab.exec("node2", "drover-node", "box", "create", "holder", "--template", "shell", "--ip", f"{box.ip4}/24")
    lab.exec("node1", "drover-node", "box", "start", box.name)
    try:
        assert refused(box)[0] == f"address {box.ip4} belongs to box holder on node2"
    finally:
        lab.exec("node2", "drover-node", "box", "destroy", "holder")


def test_address_is_in_use_on_the_network(lab, box):
    lab.exec("client", "ip", "addr", "add", f"{box.ip4}/24", "dev", "br0")
    try:
        error, _ = refused(box)
    finally:
        lab.exec("client", "ip", "addr", "del", f"{box.ip4}/24", "dev", "br0")
    assert error.startswith(f"address {box.ip4} is in use on the network of node2, by 52:54:00:77:00:fa")


def test_ids_are_taken(lab, box):
    lab.exec("node2", "drover-node", "box", "create", "neighbour", "--template", "shell", "--ip", "10.77.0.42/24")
    config = lab.node("node2").path(f"{DROVER}/boxes/neighbour/box.json")
    text = json.loads(config.read_text())
    assert text["id_base"] != box.show()["id_base"]
    text["id_base"] = box.show()["id_base"]
    config.write_text(json.dumps(text))
    try:
        assert refused(box)[0] == f"range of user ids {box.show()['id_base']} belongs to box neighbour on node2"
    finally:
        lab.exec("node2", "drover-node", "box", "destroy", "neighbour")


@pytest.mark.parametrize("kind, message", [("state", "the private layer of box stays"), ("run", "the memory of box stays")])
def test_no_space(lab, box, tmp_path, kind, message):
    small = tmp_path / "small"
    small.mkdir()
    rsh = tmp_path / "rsh"
    rsh.write_text('#!/bin/sh\nnode=$1; shift 2; exec ssh "$node" drover-node '
                   f'--{kind}-dir {small} "$@"\n')
    rsh.chmod(0o755)
    lab.exec("node2", "mount", "-t", "tmpfs", "-o", "size=8m", "small", small)
    try:
        error, _ = refused(box, "--rsh", rsh)
    finally:
        lab.exec("node2", "umount", small)
    assert error.startswith(f"node2 has 8 MiB free in {small}, and {message} needs ")


def test_stopped_box(lab, box):
    lab.exec("node1", "drover-node", "box", "stop", box.name)
    result = lab.exec("node1", "drover-node", "box", "migrate", box.name, "--to", "node2", check=False)
    assert (result.returncode, result.stderr) == (
        1, "error: box stays is stopped, not running\nhint: drover-node box start stays\n")
    assert box.states() == {"node1": "stopped"}


def test_box_that_is_not_there(lab, box):
    result = lab.exec("node1", "drover-node", "box", "migrate", "other", "--to", "node2", check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("error: there is no box other on this node\nhint: ")


def test_command_from_outside(lab, box):
    session = lab.popen("node1", "drover-node", "box", "exec", box.name, "--", "sleep", "1000")
    procs = lab.group / "node1/drover" / box.name / "cgroup.procs"
    until("the command runs", lambda: any(lines(f"/proc/{pid}/comm") == ["sleep"]
                                          for pid in procs.read_text().split()
                                          if "1000" in command_line(pid)))
    error, _ = refused(box)
    assert error.startswith("box stays runs sleep (pid ")
    assert session.poll() is None
    session.kill()


def test_no_bridge(lab, box):
    # A bridge of another name at the source only.
    lab.exec("node1", "drover-node", "box", "stop", box.name)
    config = lab.node("node1").path(f"{DROVER}/boxes/stays/box.json")
    was = config.read_text()
    lab.exec("node1", "ip", "link", "add", "br9", "type", "bridge")
    try:
        config.write_text(json.dumps({**json.loads(was), "bridge": "br9"}))
        lab.exec("node1", "drover-node", "box", "start", box.name)
        error, _ = refused(box)
        assert "br9" in error
        assert "node2" in error
    finally:
        lab.exec("node1", "drover-node", "box", "stop", box.name)
        config.write_text(was)
        lab.exec("node1", "ip", "link", "del", "br9")


@pytest.fixture
def store_without_shell(lab, box):
    """node2 has the templates, but not the layers of this one."""
    store = lab.state / "node2"
    layers = [store / "layers/sha256" / (digest.removeprefix("sha256:") + ".erofs") for digest in box.show()["layers"]]
    for layer in layers:
        os.rename(layer, f"{layer}.away")
    versions = store / "templates/shell"
    os.rename(versions, store / "shell.away")
    yield [lab.state / "node1" / layer.relative_to(store) for layer in layers]
    for layer in layers:
        os.rename(f"{layer}.away", layer)
    shutil.rmtree(versions, ignore_errors=True)
    os.rename(store / "shell.away", versions)


def test_damaged_layer_is_not_sent(lab, box, store_without_shell):
    [layer] = store_without_shell
    whole = layer.read_bytes()
    os.chmod(layer, 0o644)
    with open(layer, "r+b") as file:
        file.seek(len(whole) - 5000)
        file.write(bytes([whole[-5000] ^ 1]))
    try:
        error, _ = refused(box)
        assert hashlib.sha256(whole).hexdigest()[:12] in error
    finally:
        layer.write_bytes(whole)
        os.chmod(layer, 0o444)
    # The same with the layer as it should be: it is fetched from the source.
    assert box.migrate()["outcome"] == "moved"
    assert box.exec("cat", "/etc/hosts").stdout
    box.migrate()


def test_signer_is_not_trusted(lab, box, store_without_shell):
    keys = lab.state / "node2/keys"
    os.rename(keys, f"{keys}.away")
    try:
        error, _ = refused(box)
    finally:
        shutil.rmtree(keys, ignore_errors=True)
        os.rename(f"{keys}.away", keys)
    assert "sign" in error or "key" in error
    assert "node2" in error


def test_older_copy(lab, box):
    """The destination once gave away a newer one than this: two nodes must not have it."""
    uuid = json.loads(lab.node("node1").path(f"{DROVER}/boxes/stays/box.json").read_text())["uuid"]
    given = lab.node("node2").path(f"{DROVER}/given")
    given.mkdir(exist_ok=True)
    (given / uuid).write_text("7 " + 32 * "0" + "\n")
    try:
        error, _ = refused(box)
    finally:
        (given / uuid).unlink()
    assert error == "node2 knows a newer box stays (epoch 7) than this one (epoch 1)"


def test_busy_box(lab, box, tmp_path):
    move = Halted(box, "source.leaving", tmp_path)
    result = lab.exec("node1", "drover-node", "box", "migrate", "stays", "--to", "node2", check=False)
    stop = lab.exec("node1", "drover-node", "box", "stop", "stays", check=False)
    assert move.go_on() == 0
    for refusal in (result, stop):
        assert refusal.returncode == 1
        assert refusal.stderr.startswith("error: box stays is busy: another command is changing or moving it\nhint: ")
    box.migrate()


CREATE = ("drover-node", "box", "create", "late", "--template", "shell")


@pytest.mark.parametrize("option, value", [("--ip", "{ip4}/24"), ("--ip", "{ip6}/64"), ("--mac", "{mac}")])
def test_what_an_arriving_box_has_is_taken(lab, box, tmp_path, option, value):
    """Of a box that is on its way here too, though it runs elsewhere and its cable here is shut."""
    value = value.format(ip4=box.ip4, ip6=box.ip6, mac=box.show()["mac"])
    move = Halted(box, "destination.arriving", tmp_path)
    other = () if option == "--ip" else ("--ip", "10.77.0.43/24")
    result = lab.exec("node2", *CREATE, option, value, *other, check=False)
    assert move.go_on() == 0
    box.migrate()
    assert (result.returncode, result.stderr.splitlines()[0]) == (
        1, f"error: {'MAC' if option == '--mac' else 'address'} {value.split('/')[0]} belongs to box stays")


def test_ids_of_an_arriving_box_are_taken(lab, box, tmp_path):
    """A new box gets others, though its name would choose the same."""
    made = next(names_of_range(box.show()["id_base"]))
    move = Halted(box, "destination.arriving", tmp_path)
    lab.exec("node2", "drover-node", "box", "create", made, "--template", "shell", "--ip", "10.77.0.43/24")
    ids = lab.json("node2", "drover-node", "--json", "box", "show", made)["id_base"]
    lab.exec("node2", "drover-node", "box", "destroy", made)
    assert move.go_on() == 0
    box.migrate()
    assert ids == box.show()["id_base"] + 65536


def names_of_range(id_base):
    """Names whose ids begin there where they are free: box/node.cc takes the CRC-32C of the name."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    for number in itertools.count():
        crc = 0xFFFFFFFF
        for byte in f"box{number}".encode():
            crc = crc >> 8 ^ table[(crc ^ byte) & 255]
        if ((crc ^ 0xFFFFFFFF) % 60000 + 16) * 65536 == id_base:
            yield f"box{number}"


@pytest.mark.parametrize("what", ["address", "MAC", "range of user ids"])
def test_taken_since_the_preflight(lab, box, tmp_path, what):
    """Another box of the destination has it only after the destination has looked."""
    layers = [lab.state / "node2/layers/sha256" / (digest.removeprefix("sha256:") + ".erofs") for digest in box.show()["layers"]]
    mine = json.loads((box.upper().parents[1] / "box.json").read_text())
    lab.exec("node2", "drover-node", "box", "create", "rival", "--template", "shell", "--ip", "10.77.0.44/24")
    config = lab.node("node2").path(f"{DROVER}/boxes/rival/box.json")
    key = {"address": "addresses", "MAC": "mac", "range of user ids": "id_base"}[what]
    taken = json.dumps({**json.loads(config.read_text()), key: mine[key]})
    # While the destination waits for layers that it lacks, it has looked already.
    rsh = tmp_path / "rsh"
    rsh.write_text(f'#!/bin/sh\ncase "$*" in *template*) cp {tmp_path}/taken {config};; esac\nexec ssh "$@"\n')
    rsh.chmod(0o755)
    (tmp_path / "taken").write_text(taken)
    for layer in layers:
        os.rename(layer, f"{layer}.away")
    try:
        result = lab.exec("node1", "drover-node", "box", "migrate", box.name, "--to", "node2", "--rsh", rsh, *with_patience(()), check=False)
    finally:
        for layer in layers:
            os.rename(f"{layer}.away", layer)
        lab.exec("node2", "drover-node", "box", "destroy", "rival")
    assert result.returncode == 1
    assert re.search(rf"^error: {what} \S+ belongs to box rival on node2$", result.stderr, re.M), result.stderr
    assert box.node() == "node1"
