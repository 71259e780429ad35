"""What the tests of boxes share: the boxes of one node of the lab."""

import json
import os
import socket
import struct
import subprocess
import threading
from pathlib import Path

from conftest import ROOT, checked, lines

STATE = "/var/lib/drover"


class Boxes:
    """The box commands of one node. `with Boxes(lab) as boxes:` destroys what is left of them at the end."""

    def __init__(self, lab, node="node1", first=20):
        self.lab, self.node, self.number = lab, lab.node(node), first

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.end_children()
        for box in self.list():
            self.drover("box", "destroy", "--force", box["name"])

    def drover(self, *words, **options):
        """Runs `drover-node WORDS...` and returns its CompletedProcess."""
        return self.node.exec("drover-node", *words, **options)

    def fails(self, *words, status=1):
        """Runs a `box` command that must fail, and returns what it says: one sentence, at most a hint."""
        result = self.drover("box", *words, check=False)
        assert result.returncode == status, (words, result)
        said = result.stderr.splitlines()
        assert said and said[0].startswith("error: "), said
        assert [line for line in said[1:] if not line.startswith(("    ", "  while ", "hint: "))] == [], said
        return result.stderr

    def list(self):
        return json.loads(self.drover("--json", "box", "list").stdout)

    def show(self, name):
        return json.loads(self.drover("--json", "box", "show", name).stdout)

    def state(self, name):
        return self.show(name)["state"]

    def create(self, name, template="shell", *options, ip=None):
        """A box with an IPv4 and an IPv6 address of its own, unless told otherwise."""
        if ip is None:
            self.number += 1
            ip = (f"10.77.0.{self.number}/24", f"fd77::1:{self.number:x}/64")
        self.drover("box", "create", name, "--template", template, *(w for a in ip for w in ("--ip", a)), *options)
        return self.show(name)

    def start(self, name, *create, files=(), **options):
        """Creates a box, puts files {path: (content, mode)} into its private layer, and starts it."""
        if not self.node.path(f"{STATE}/boxes/{name}").exists():
            self.create(name, *create, **options)
        for path, (content, mode) in dict(files).items():
            self.write(name, path, content, mode)
        self.drover("box", "start", name)
        return self.show(name)

    def upper(self, name):
        return self.node.path(f"{STATE}/boxes/{name}/private/upper")

    def write(self, name, path, content, mode=0o644):
        """Puts a file into a stopped box's private layer; ids there are the box's own."""
        at = self.upper(name) / path.lstrip("/")
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(content if isinstance(content, bytes) else content.encode())
        at.chmod(mode)

    def run(self, name, *argv, **options):
        """Runs a command in a box."""
        return self.drover("box", "exec", name, "--", *argv, **options)

    def sh(self, name, script, **options):
        """The output of a shell script in a box."""
        return self.run(name, "sh", "-c", script, **options).stdout

    def remains(self, name):
        """What the kernel and the disk of the node still hold of a box."""
        found = []
        for path in (f"/sys/fs/cgroup/drover/{name}", f"{STATE}/boxes/{name}", f"{STATE}/boxes/.new-{name}",
                     f"/run/drover/boxes/{name}", f"/run/drover/crun/{name}"):
            if self.node.path(path).exists():
                found.append(path)
        found += [f"{STATE}/boxes/{path.name}" for path in self.node.path(f"{STATE}/boxes").glob(".*")]
        found += [line.split()[4] for line in lines(f"/proc/{self.node.lab.pids[self.node.name]}/mountinfo")
                  if f"/run/drover/boxes/{name}" in line or f"{STATE}/boxes/{name}/" in line or (not self.list() and "/run/drover/layers" in line)]
        links = self.node.exec("ip", "-brief", "link").stdout
        found += [line for line in links.splitlines() if line.startswith(("vb", "vp")) and not self.list()]
        tables = self.node.exec("nft", "list", "tables", "netdev").stdout
        found += [line for line in tables.splitlines() if not self.list()]
        return found

    def layer_mounts(self):
        return [line.split()[4] for line in lines(f"/proc/{self.node.lab.pids[self.node.name]}/mountinfo")
                if line.split()[4].startswith("/run/drover/layers/")]


def inside_program(directory):
    """tests/lab/inside.cc as a program without libraries, to be put into boxes."""
    at = Path(directory) / "inside"
    checked(subprocess.run(["g++", "-std=c++23", "-O1", "-static", "-s", "-o", at, ROOT / "tests/lab/inside.cc"],
                           text=True, capture_output=True, timeout=300))
    return at.read_bytes()


class Sniffer:
    """Every frame that arrives on an interface in the network namespace of a process."""

    def __init__(self, pid, interface):
        def make():
            with open(f"/proc/{pid}/ns/net") as namespace:
                os.setns(namespace.fileno(), os.CLONE_NEWNET)
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            self.socket.bind((interface, 0))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        self.socket.settimeout(20)

    def until(self, marker):
        """Reads up to the frame that holds the marker, and returns all of them."""
        seen = []
        while not seen or marker not in seen[-1]:
            seen.append(self.socket.recv(65536))
        return seen

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


# --- frames

def mac_bytes(mac):
    return bytes.fromhex(mac.replace(":", ""))


def eth(destination, source, kind, payload):
    return mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", kind) + payload


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ip4(source, destination, protocol, payload):
    def header(check):
        return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, check,
                           socket.inet_aton(source), socket.inet_aton(destination))
    return header(checksum(header(0))) + payload


def ip6(source, destination, protocol, payload, extra=b"", hops=255):
    """`extra` are extension headers, the first of which is of type `protocol`."""
    return (struct.pack("!IHBB", 6 << 28, len(extra) + len(payload), protocol, hops) +
            socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination) + extra + payload)


def udp(source, destination, payload):
    return struct.pack("!HHHH", source, destination, 8 + len(payload), 0) + payload


def icmp6(source, destination, message):
    pseudo = (socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination) +
              struct.pack("!II", len(message), 58))
    return message[:2] + struct.pack("!H", checksum(pseudo + message[:2] + b"\0\0" + message[4:])) + message[4:]


def arp(operation, sender_mac, sender, target_mac, target):
    return (struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + mac_bytes(sender_mac) + socket.inet_aton(sender) +
            mac_bytes(target_mac) + socket.inet_aton(target))
