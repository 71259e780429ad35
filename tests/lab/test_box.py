"""The box commands of drover-node, on real nodes with the shipped templates."""

import os
import re
import signal

import pytest

from boxes import STATE, Boxes
from conftest import lines

CLIENT4, CLIENT6 = "10.77.0.250", "fd77::250"


@pytest.fixture
def boxes(lab, templates):
    with Boxes(lab) as made:
        yield made


def test_life_of_a_box(boxes, lab):
    made = boxes.create("web1")
    assert made["state"] == "stopped" and made["epoch"] == 1 and "pid" not in made
    assert re.fullmatch(r"shell@\d{10}", made["template"])
    assert not (set(boxes.remains("web1")) - {f"{STATE}/boxes/web1"})

    boxes.drover("box", "start", "web1")
    shown = boxes.show("web1")
    assert shown["state"] == "running" and os.path.exists(f"/proc/{shown['pid']}")
    assert boxes.sh("web1", "hostname; id -u; echo $$ >/root/mine") == "web1\n0\n"
    status = dict(line.split(":\t", 1) for line in lines(f"/proc/{shown['pid']}/status"))
    assert status["Uid"].split()[0] == str(shown["id_base"]) and shown["id_base"] >= 65536

    [listed] = boxes.list()
    assert {key: shown[key] for key in listed} == listed
    table = boxes.drover("box", "list").stdout.splitlines()
    assert table[0].split() == ["NAME", "STATE", "TEMPLATE", "ADDRESSES", "EPOCH"]
    assert table[1].split() == ["web1", "running", made["template"], *made["addresses"], "1"]
    text = boxes.drover("box", "show", "web1").stdout
    assert made["mac"] in text and shown["host_end"] in text

    stopped = boxes.drover("box", "stop", "web1")
    assert "killed" not in stopped.stderr
    assert boxes.state("web1") == "stopped"
    assert set(boxes.remains("web1")) == {f"{STATE}/boxes/web1"}
    boxes.drover("box", "destroy", "web1")
    assert boxes.list() == [] and boxes.remains("web1") == []


def test_private_layer_survives_a_restart(boxes):
    boxes.start("web1")
    boxes.sh("web1", "echo kept >/srv/file; mkdir /root/d; ln -s x /root/d/l; rm /etc/hosts; echo gone >/run/file")
    boxes.drover("box", "stop", "web1")
    boxes.drover("box", "start", "web1")
    script = "cat /srv/file; readlink /root/d/l; [ -e /etc/hosts ] || echo no hosts; [ -e /run/file ] || echo no run"
    assert boxes.sh("web1", script) == "kept\nx\nno hosts\nno run\n"


def test_several_addresses_of_both_families(boxes, lab):
    ip = ("10.77.0.30/24", "10.77.0.31/24", "fd77::1:30/64", "fd77::1:31/64")
    boxes.start("web1", ip=ip)
    assert boxes.show("web1")["addresses"] == list(ip)
    inside = boxes.sh("web1", "ip -o addr show dev eth0")
    for address in ip:
        assert f" {address} " in inside
        lab.exec("client", "ping", "-n", "-c1", "-W10", address.split("/")[0])
        boxes.run("web1", "ping", "-c1", "-W10", "-I", address.split("/")[0], CLIENT6 if ":" in address else CLIENT4)


def test_prefix_and_gateway_are_the_nodes_unless_named(boxes, lab):
    ip = ("10.77.0.32", "fd77::1:32")
    made = boxes.create("web1", ip=ip)
    assert made["addresses"] == ["10.77.0.32/24", "fd77::1:32/64"] and made["gateways"] == []

    for family, gateway in (("-4", "10.77.0.250"), ("-6", "fd77::250")):
        lab.exec("node1", "ip", family, "route", "add", "default", "via", gateway)
    try:
        found = boxes.create("web2")["gateways"]
        # A box that cannot reach the node's gateway gets none.
        far = boxes.create("web3", ip=["192.0.2.3/24"])["gateways"]
        named = boxes.start("web4", "shell", "--gateway", "10.77.0.249")
    finally:
        for family in ("-4", "-6"):
            lab.exec("node1", "ip", family, "route", "del", "default")
    assert found == ["10.77.0.250", "fd77::250"] and far == []
    assert named["gateways"] == ["10.77.0.249"]
    assert "default via 10.77.0.249 dev eth0" in boxes.sh("web4", "ip route")
    boxes.drover("box", "start", "web2")
    assert "default via 10.77.0.250 dev eth0" in boxes.sh("web2", "ip route")
    assert "default via fd77::250 dev eth0" in boxes.sh("web2", "ip -6 route")


def test_gateway_routes_packets(boxes, lab):
    lab.exec("client", "ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
    try:
        boxes.start("web1", "shell", "--gateway", "10.77.0.250")
        boxes.run("web1", "ping", "-c1", "-W10", "198.51.100.1")
    finally:
        lab.exec("client", "ip", "addr", "del", "198.51.100.1/32", "dev", "lo")


def test_mac(boxes):
    boxes.start("web1", "shell", "--mac", "02:AB:00:00:00:07")
    assert boxes.show("web1")["mac"] == "02:ab:00:00:00:07"
    assert boxes.sh("web1", "cat /sys/class/net/eth0/address") == "02:ab:00:00:00:07\n"
    made_up = boxes.create("web2")["mac"]
    assert int(made_up[:2], 16) & 3 == 2
    for _ in range(2):  # a stop changes nothing
        boxes.drover("box", "stop", "web1")
        boxes.drover("box", "start", "web1")
    assert boxes.sh("web1", "cat /sys/class/net/eth0/address") == "02:ab:00:00:00:07\n"


def test_layers_are_mounted_once_for_all_boxes(boxes):
    first = boxes.start("redis1", "redis")
    assert len(first["layers"]) == 2
    mounts = boxes.layer_mounts()
    assert len(mounts) == 2
    boxes.start("redis2", "redis")
    boxes.start("plain", "debian-13")  # one of the same layers
    assert boxes.layer_mounts() == mounts
    boxes.drover("box", "stop", "redis1")
    assert boxes.layer_mounts() == mounts
    boxes.drover("box", "stop", "redis2")
    assert len(boxes.layer_mounts()) == 1
    boxes.drover("box", "stop", "plain")
    assert boxes.layer_mounts() == []


def test_a_damaged_configuration_is_the_trouble_of_one_box(boxes):
    boxes.start("web1")
    boxes.start("web2")
    mounts = boxes.layer_mounts()
    config = boxes.node.path(f"{STATE}/boxes/web1/box.json")
    good = config.read_bytes()
    config.write_bytes(good[:len(good) // 2])
    damaged = f"{STATE}/boxes/web1/box.json is damaged: "
    try:
        assert [box["name"] for box in boxes.list()] == ["web2"]
        assert f"box web1 is not shown: {damaged}" in boxes.drover("box", "list").stderr
        assert damaged in boxes.drover("box", "stop", "web2").stderr
        assert boxes.state("web2") == "stopped" and boxes.layer_mounts() == mounts
        # What it has is not known, and so not given to others or removed.
        assert damaged in boxes.fails("stop", "web1")
        assert damaged in boxes.fails("create", "web3", "--template", "shell", "--ip", "10.77.0.60/24")
        collected = boxes.drover("template", "gc", check=False)
        assert collected.returncode == 1 and damaged in collected.stderr
        assert sorted(path.name for path in boxes.node.path(f"{STATE}/boxes").iterdir()) == ["web1", "web2"]
    finally:
        config.write_bytes(good)
    boxes.drover("box", "stop", "web1")
    assert boxes.layer_mounts() == []


def test_boxes_see_each_other_on_the_network_only(boxes, lab):
    one, two = boxes.start("web1"), boxes.start("web2")
    for address in two["addresses"]:
        boxes.run("web1", "ping", "-c1", "-W10", address.split("/")[0])
    assert one["id_base"] != two["id_base"]
    boxes.sh("web1", "echo of web1 >/root/mine")
    assert boxes.run("web2", "cat", "/root/mine", check=False).returncode != 0


# --- exec

def test_exec_passes_stdio_and_status(boxes, lab):
    boxes.start("web1")
    assert boxes.run("web1", "cat", input="some text\n").stdout == "some text\n"
    result = boxes.run("web1", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)
    assert boxes.run("web1", "sh", "-c", "kill -TERM $$", check=False).returncode == 128 + 15
    assert boxes.run("web1", "true").returncode == 0

    data = os.urandom(3 << 20)  # more than any pipe holds
    child = lab.popen("node1", "drover-node", "box", "exec", "web1", "cat", text=False)
    assert child.communicate(data, timeout=30)[0] == data and child.returncode == 0


def test_exec_takes_the_commands_options_as_its_own(boxes):
    boxes.start("web1")
    assert boxes.drover("box", "exec", "web1", "echo", "--json", "-v").stdout == "--json -v\n"
    assert boxes.drover("box", "exec", "web1", "--", "echo", "--", "-n").stdout == "-- -n\n"
    assert boxes.drover("box", "exec", "web1", "--", "sh", "-c", "echo $0 $1", "a", "--help").stdout == "a --help\n"


def test_exec_of_what_cannot_run(boxes):
    boxes.start("web1")
    missing = boxes.run("web1", "no-such-command", check=False)
    assert missing.returncode == 127
    assert missing.stderr == "error: cannot run no-such-command in box web1: No such file or directory\n"
    assert boxes.run("web1", "/etc/passwd", check=False).returncode == 126


def test_exec_runs_in_the_box_alone(boxes, lab, tmp_path):
    box = boxes.start("web1")
    # What the caller has open stays outside: through such a descriptor the box would reach the node's files.
    result = lab.exec("node1", "sh", "-c", "exec 7</ 8</etc; exec drover-node box exec web1 ls /proc/self/fd")
    assert set(result.stdout.split()) <= {"0", "1", "2", "3"}  # 3: ls has the directory open
    assert "no 7" in lab.exec("node1", "sh", "-c", "exec 7</; exec drover-node box exec web1 sh -c "
                                                   "'[ -e /proc/self/fd/7 ] || echo no 7'").stdout
    for kind in ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup"):
        assert boxes.run("web1", "readlink", f"/proc/self/ns/{kind}").stdout.strip() == \
            os.readlink(f"/proc/{box['pid']}/ns/{kind}"), kind
    bounds = [line for line in lines(f"/proc/{box['pid']}/status") if line.startswith("CapBnd")]
    assert boxes.sh("web1", "grep CapBnd /proc/self/status").splitlines() == bounds
    environment = dict(line.split("=", 1) for line in boxes.run("web1", "env").stdout.splitlines())
    assert environment["HOME"] == "/root" and environment["container"] == "drover"
    assert not [key for key in environment if key.startswith(("DROVER", "PYTEST"))]


def test_exec_ends_with_its_box(boxes, lab, wait_until):
    boxes.start("web1")
    child = lab.popen("node1", "drover-node", "box", "exec", "web1", "sh", "-c", "echo there; sleep 1000")
    assert child.stdout.readline() == "there\n"
    boxes.drover("box", "stop", "web1", "--timeout", "1")
    wait_until("exec ends", lambda: child.poll() is not None, timeout=20)
    assert child.returncode > 128


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 130), (signal.SIGHUP, 130), (signal.SIGKILL, -9)])
def test_the_command_ends_with_exec(boxes, lab, wait_until, number, status):
    boxes.start("web1")
    child = lab.popen("node1", "drover-node", "box", "exec", "web1", "sh", "-c", "echo there; exec sleep 98765")
    assert child.stdout.readline() == "there\n" and "98765" in boxes.sh("web1", "ps")
    child.send_signal(number)
    assert child.wait(timeout=20) == status
    wait_until("the command ends", lambda: "98765" not in boxes.run("web1", "ps").stdout)


# --- log

def test_log_is_what_init_wrote(boxes, wait_until):
    boxes.start("web1", files={"/etc/rc.local": ("#!/bin/sh\nfor i in 1 2 3; do echo line $i; done; echo bad >&2\n", 0o755)})
    expected = "line 1\nline 2\nline 3\nbad\n"
    wait_until("init has written", lambda: boxes.drover("box", "log", "web1").stdout == expected)
    assert boxes.drover("box", "log", "web1", "-n", "2").stdout == "line 3\nbad\n"
    assert boxes.drover("box", "log", "web1", "--lines", "0").stdout == expected
    boxes.drover("box", "stop", "web1")
    assert boxes.drover("box", "log", "web1").stdout.startswith(expected)
    boxes.drover("box", "start", "web1")
    wait_until("it goes on", lambda: boxes.drover("box", "log", "web1", "-n0").stdout.count("line 3") == 2)


def test_log_of_a_box_that_never_ran(boxes):
    boxes.create("web1")
    assert boxes.drover("box", "log", "web1").stdout == ""


@pytest.mark.parametrize("planted", ["symlink", "relative symlink", "parent", "absolute parent", "fifo", "directory"])
def test_log_leaks_nothing_of_the_node(boxes, lab, planted):
    secret = lab.state / "node1/secret"
    secret.write_text("a secret of the node\n")
    boxes.start("web1")
    up = "../" * 12
    boxes.sh("web1", {
        "symlink": f"ln -sf {STATE}/secret /var/log/box.log",
        "relative symlink": f"ln -sf {up}{STATE}/secret /var/log/box.log",
        "parent": f"rm -r /var/log; ln -s {up}{STATE} /var/log; ln -s secret /root/box.log",
        "absolute parent": f"rm -r /var/log; ln -s {STATE} /var/log",
        "fifo": "rm /var/log/box.log; mkfifo /var/log/box.log",
        "directory": "rm /var/log/box.log; mkdir /var/log/box.log",
    }[planted])
    if "parent" in planted:
        (lab.state / "node1/box.log").write_text(secret.read_text())
    try:
        result = boxes.drover("box", "log", "web1", check=False, timeout=20)
        assert "secret of" not in result.stdout + result.stderr
        boxes.drover("box", "stop", "web1")  # it does not hinder anything else
        result = boxes.drover("box", "log", "web1", check=False, timeout=20)
        assert "secret of" not in result.stdout + result.stderr
        assert (lab.state / "node1/secret").read_text() == "a secret of the node\n"
    finally:
        secret.unlink()
        (lab.state / "node1/box.log").unlink(missing_ok=True)


# --- stop

def test_stop_asks_first(boxes, wait_until):
    init = "trap 'echo asked >/srv/said; exit 0' TERM\n>/srv/ready\nwhile :; do sleep 1000 & wait $!; done\n"
    boxes.start("web1", files={"/sbin/box-init": (init, 0o755)})
    wait_until("it can be asked", lambda: (boxes.upper("web1") / "srv/ready").exists())
    result = boxes.drover("box", "stop", "web1", "--timeout", "30")
    assert result.stderr == ""
    assert (boxes.upper("web1") / "srv/said").read_text() == "asked\n"


def test_stop_kills_what_does_not_end(boxes, wait_until):
    init = "trap 'echo asked >/srv/said' TERM\n>/srv/ready\nwhile :; do sleep 1000 & wait $!; done\n"
    boxes.start("web1", files={"/sbin/box-init": (init, 0o755)})
    wait_until("it can be asked", lambda: (boxes.upper("web1") / "srv/ready").exists())
    result = boxes.drover("box", "stop", "web1", "--timeout", "1")
    assert "box web1 did not end by itself and was killed" in result.stderr
    assert boxes.state("web1") == "stopped"
    assert (boxes.upper("web1") / "srv/said").read_text() == "asked\n"


@pytest.mark.limit(180)
@pytest.mark.parametrize("template", ["debian-13", "redis"])
def test_stop_uses_the_templates_signal(boxes, wait_until, lab, template):
    boxes.start("one", template)
    if template == "redis":
        def answers():
            return lab.exec("client", "redis-cli", "-h", "10.77.0.21", "set", "k", "v", check=False).stdout == "OK\n"
        wait_until("redis answers", answers, timeout=60)
    else:
        wait_until("cron runs", lambda: boxes.run("one", "pgrep", "cron", check=False).returncode == 0, timeout=60)
    result = boxes.drover("box", "stop", "one", "--timeout", "60", timeout=100)
    assert result.stderr == ""


def test_stop_of_a_stopped_box_is_fine(boxes):
    boxes.create("web1")
    boxes.drover("box", "stop", "web1")
    assert boxes.state("web1") == "stopped"


def test_a_box_whose_init_ends_is_stopped(boxes, wait_until):
    boxes.start("web1", files={"/sbin/box-init": ("echo that was it\n", 0o755)})
    wait_until("it is stopped", lambda: boxes.state("web1") == "stopped")
    assert boxes.drover("box", "log", "web1").stdout == "that was it\n"
    assert "box web1 is stopped, not running" in boxes.fails("exec", "web1", "true")
    boxes.drover("box", "start", "web1")
    boxes.drover("box", "destroy", "--force", "web1")
    assert boxes.remains("web1") == []


def test_an_init_that_is_missing_fails_the_start(boxes):
    boxes.create("web1")
    boxes.write("web1", "/bin/placeholder", "")  # /bin is a symlink in the template: now a directory without sh
    boxes.fails("start", "web1")
    assert boxes.state("web1") == "stopped"
    assert boxes.remains("web1") == [f"{STATE}/boxes/web1"]


def test_restart_within_the_box_of_a_pid_namespace_of_its_own(boxes, lab):
    """A process 1 of a namespace inside of the box is not the box's."""
    boxes.start("web1", "debian-13")
    child = lab.popen("node1", "drover-node", "box", "exec", "web1", "unshare", "-pf", "--mount-proc",
                      "sh", "-c", "echo there; sleep 1000")
    assert child.stdout.readline() == "there\n"
    pid = boxes.show("web1")["pid"]
    for _ in range(3):
        boxes.sh("web1", "setsid unshare -pf sleep 1000 >/dev/null 2>&1 </dev/null &")
        assert boxes.show("web1")["pid"] == pid
    assert boxes.run("web1", "cat", "/proc/1/comm").stdout == "init\n"


def test_destroy_of_a_running_box_needs_force(boxes):
    boxes.start("web1")
    said = boxes.fails("destroy", "web1")
    assert "box web1 is running" in said and "--force" in said
    assert boxes.state("web1") == "running"
    boxes.drover("box", "destroy", "--force", "web1")
    assert boxes.remains("web1") == []


def test_a_new_box_of_an_old_name_is_empty(boxes):
    first = boxes.start("web1", ip=["10.77.0.40/24"])
    boxes.sh("web1", "echo old >/srv/file")
    boxes.drover("box", "destroy", "--force", "web1")
    second = boxes.start("web1", ip=["10.77.0.40/24"])
    assert boxes.run("web1", "cat", "/srv/file", check=False).returncode != 0
    assert first["mac"] != second["mac"]


def test_two_at_once_get_different_ids_and_only_one_gets_the_address(boxes, lab):
    words = ["drover-node", "box", "create", "--template", "shell", "--ip"]
    children = [lab.popen("node1", *words, "10.77.0.41/24", f"same{k}") for k in range(4)]
    results = [(child.communicate(timeout=60), child.returncode)[1] for child in children]
    assert sorted(results) == [0, 1, 1, 1]
    assert len(boxes.list()) == 1


def test_an_address_in_use_on_the_network_is_refused(boxes, lab):
    for address in (CLIENT4, CLIENT6, lab.address("node2")):
        said = boxes.fails("create", "web1", "--template", "shell", "--ip", address)
        assert f"address {address} is in use on the network of br0, by " in said
    with Boxes(lab, "node2", first=60) as others:
        taken = others.start("other")["addresses"]
        for address in taken:
            assert "is in use on the network" in boxes.fails("create", "web1", "--template", "shell", "--ip", address)
    assert boxes.list() == [] and boxes.remains("web1") == []


def test_interrupted_commands(boxes, lab, wait_until):
    """Ctrl-C while a box is asked to end: the box is as it was, and the next command goes on."""
    boxes.start("web1", files={"/sbin/box-init": ("trap 'echo asked >>/srv/said' TERM\n>/srv/ready\nwhile :; do sleep 1000 & wait $!; done\n", 0o755)})
    wait_until("it can be asked", lambda: (boxes.upper("web1") / "srv/ready").exists())
    child = lab.popen("node1", "drover-node", "box", "stop", "web1", "--timeout", "1000")
    wait_until("it is asked", lambda: (boxes.upper("web1") / "srv/said").exists())
    assert "box web1 is busy" in boxes.fails("start", "web1")
    child.send_signal(2)
    wait_until("stop ends", lambda: child.poll() is not None)
    assert child.returncode == 130
    assert boxes.state("web1") == "running"


def test_a_second_box_on_another_bridge(boxes, lab):
    lab.exec("node1", "sh", "-ec", "ip link add br1 type bridge; ip addr add 192.0.2.1/24 dev br1; ip link set br1 up")
    try:
        boxes.start("web1", "shell", "--bridge", "br1", ip=["192.0.2.10"])
        assert boxes.show("web1")["addresses"] == ["192.0.2.10/24"]
        boxes.run("web1", "ping", "-c1", "-W10", "192.0.2.1")
        boxes.drover("box", "destroy", "--force", "web1")
    finally:
        lab.exec("node1", "ip", "link", "del", "br1")


def test_after_a_power_cut_boxes_are_stopped(boxes, lab):
    boxes.start("web1")
    boxes.sh("web1", "echo kept >/srv/file; sync")
    lab.off("node1")
    lab.on("node1")
    assert boxes.state("web1") == "stopped"
    boxes.drover("box", "start", "web1")
    assert boxes.sh("web1", "cat /srv/file") == "kept\n"
