"""What a box's root can do, and what it cannot: tried from inside of a box.

tests/lab/inside.cc, a program without libraries, is in the boxes as /inside.
"""

import os
import socket
import struct
import textwrap

import pytest

from boxes import Boxes, Sniffer, arp, eth, icmp6, inside_program, ip4, ip6, mac_bytes, udp
from conftest import lines

ALL, ALL_NODES, EVERYONE = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01", "ff02::1"
CLIENT4, CLIENT6, NOBODY = "10.77.0.250", "fd77::250", "00:00:00:00:00:00"
# Linux, arch/x86/entry/syscalls/syscall_64.tbl
INIT_MODULE, FINIT_MODULE, DELETE_MODULE, KEXEC_LOAD, SWAPON, SETTIMEOFDAY, IOPL, SYSLOG, ACCT = \
    175, 313, 176, 246, 167, 164, 172, 103, 163
IO_URING_SETUP = 425


@pytest.fixture(scope="module")
def boxes(lab, templates, tmp_path_factory):
    """Two boxes for the whole file: debian, a whole server, and other, its neighbour."""
    program = inside_program(tmp_path_factory.mktemp("inside"))
    with Boxes(lab, first=40) as made:
        for name, template in (("debian", "debian-13"), ("other", "shell")):
            made.start(name, template, files={"/inside": (program, 0o755)})
        # What its start still does would look like something that a test leaves.
        made.sh("debian", "for i in $(seq 300); do ! pgrep -x 'rc|startpar' >/dev/null && pgrep -x cron && exit 0; sleep .2; done; exit 1",
                timeout=90)
        yield made


@pytest.fixture
def sh(boxes):
    def run(script, **options):
        return boxes.sh("debian", textwrap.dedent(script), **options)
    return run


def refused(boxes, script, box="debian"):
    """Runs a script that must fail in a box, and returns what it said."""
    result = boxes.run(box, "sh", "-c", script, check=False)
    assert result.returncode not in (0, 125, 126, 127), (script, result)
    return result.stdout + result.stderr


# --- the network

class Ends:
    """Names and numbers for frames: the sender's own, and the neighbour's."""

    def __init__(self, boxes):
        self.mac, self.ip4, self.ip6, self.local = self.of(boxes.show("debian"))
        self.other_mac, self.other_ip4, self.other_ip6, self.other_local = self.of(boxes.show("other"))

    @staticmethod
    def of(shown):
        four, six = (address.split("/")[0] for address in shown["addresses"])
        raw = mac_bytes(shown["mac"])
        eui = bytes([raw[0] ^ 2, *raw[1:3], 0xff, 0xfe, *raw[3:]]).hex()
        return shown["mac"], four, six, "fe80::" + ":".join(eui[i:i + 4] for i in range(0, 16, 4))


def option(kind, mac):
    return bytes([kind, 1]) + mac_bytes(mac)


def advert(target, option_mac, source, destination=EVERYONE):
    body = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + socket.inet_pton(socket.AF_INET6, target)
    return icmp6(source, destination, body + (option(2, option_mac) if option_mac else b""))


def solicit(target, option_mac, source, destination=EVERYONE):
    body = struct.pack("!BBHI", 135, 0, 0, 0) + socket.inet_pton(socket.AF_INET6, target)
    return icmp6(source, destination, body + (option(1, option_mac) if option_mac else b""))


def legal_frames(e):
    def word(label):
        return udp(1000, 2000, mark(label))

    return {
        "IPv4": eth(ALL, e.mac, 0x0800, ip4(e.ip4, "255.255.255.255", 17, word("IPv4"))),
        "IPv6": eth(ALL_NODES, e.mac, 0x86dd, ip6(e.ip6, EVERYONE, 17, word("IPv6"))),
        "link-local": eth(ALL_NODES, e.mac, 0x86dd, ip6(e.local, EVERYONE, 17, word("link-local"))),
        "ARP request": eth(ALL, e.mac, 0x0806, arp(1, e.mac, e.ip4, NOBODY, CLIENT4)),
        "gratuitous ARP": eth(ALL, e.mac, 0x0806, arp(2, e.mac, e.ip4, ALL, e.ip4)),
        "neighbour advertisement": eth(ALL_NODES, e.mac, 0x86dd, ip6(e.ip6, EVERYONE, 58, advert(e.ip6, e.mac, e.ip6))),
    }


def forged_frames(e):
    def packet4(label, source, payload=None, protocol=17):
        return ip4(source, "255.255.255.255", protocol, udp(1000, 2000, mark(label)) if payload is None else payload)

    def packet6(label, source, payload=None, protocol=17, extra=b""):
        return ip6(source, EVERYONE, protocol, udp(1000, 2000, mark(label)) if payload is None else payload, extra)

    frames = {}

    def from4(label, source, *rest, mac=e.mac):
        frames[label] = eth(ALL, mac, 0x0800, packet4(label, source, *rest))

    def from6(label, source, *rest, mac=e.mac, **extra):
        frames[label] = eth(ALL_NODES, mac, 0x86dd, packet6(label, source, *rest, **extra))

    def says_by_arp(label, *words):
        frames[label] = eth(ALL, e.mac, 0x0806, arp(*words))

    def other(label, kind, head=b"", tail=None):
        frames[label] = eth(ALL, e.mac, kind, head + (mark(label).ljust(40, b"\0") if tail is None else tail))

    from4("a MAC of nobody", e.ip4, mac="02:de:ad:be:ef:01")
    from4("the neighbour's MAC", e.ip4, mac=e.other_mac)
    from6("the neighbour's MAC, IPv6", e.ip6, mac=e.other_mac)
    frames["the neighbour's MAC and ARP"] = eth(ALL, e.other_mac, 0x0806,
                                                arp(1, e.other_mac, e.other_ip4, NOBODY, "10.77.0.198"))
    from4("the neighbour's IPv4", e.other_ip4)
    from4("a free IPv4", "10.77.0.199")
    from4("the client's IPv4", CLIENT4)
    from4("no IPv4", "0.0.0.0")
    from4("loopback", "127.0.0.1")
    from6("the neighbour's IPv6", e.other_ip6)
    from6("a free IPv6", "fd77::1:ffff")
    from6("the neighbour's link-local", e.other_local)
    from6("no IPv6", "::")
    says_by_arp("ARP reply for the neighbour", 2, e.mac, e.other_ip4, ALL, CLIENT4)
    says_by_arp("ARP request as the neighbour", 1, e.mac, e.other_ip4, NOBODY, CLIENT4)
    says_by_arp("gratuitous ARP for the client", 2, e.mac, CLIENT4, ALL, CLIENT4)
    says_by_arp("ARP with the neighbour's MAC", 2, e.other_mac, e.ip4, ALL, CLIENT4)
    says_by_arp("ARP probe for the neighbour", 1, e.mac, "0.0.0.0", NOBODY, e.other_ip4)
    hidden = advert(e.other_ip6, e.mac, e.ip6)
    from6("advertisement for the neighbour", e.ip6, hidden, 58)
    from6("the same without its option", e.ip6, advert(e.other_ip6, None, e.ip6), 58)
    from6("advertisement from its link-local", e.local, advert(e.other_local, e.mac, e.local), 58)
    from6("advertisement for the client", e.ip6, advert(CLIENT6, e.mac, e.ip6), 58)
    from6("advertisement with the neighbour's MAC", e.ip6, advert(e.ip6, e.other_mac, e.ip6), 58)
    from6("advertisement behind options", e.ip6, hidden, 0, extra=bytes([58, 0, 1, 4, 0, 0, 0, 0]))
    from6("advertisement in a fragment", e.ip6, hidden, 44, extra=struct.pack("!BBHI", 58, 0, 1, 7))
    from6("solicitation as the neighbour", e.ip6, solicit(CLIENT6, e.other_mac, e.ip6), 58)
    from6("duplicate address detection", "::", solicit(e.other_ip6, None, "::"), 58)
    router = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    from6("router advertisement", e.local, icmp6(e.local, EVERYONE, router), 58)
    from6("redirect", e.local, icmp6(e.local, EVERYONE, struct.pack("!BBHI", 137, 0, 0, 0) + bytes(32)), 58)
    from6("multicast query", e.local, icmp6(e.local, EVERYONE, struct.pack("!BBHHH", 130, 0, 0, 0, 0) + bytes(16)), 58)
    from4("IGMP query", e.ip4, struct.pack("!BBHI", 0x11, 100, 0xee9b, 0), 2)
    from4("DHCP answer", e.ip4, udp(67, 68, mark("DHCP answer").ljust(240, b"\0")))
    from6("DHCPv6 answer", e.local, udp(547, 546, mark("DHCPv6 answer")))
    other("VLAN", 0x8100, struct.pack("!HH", 5, 0x0800), packet4("VLAN", e.ip4))
    other("VLAN 0", 0x8100, struct.pack("!HH", 0, 0x0800), packet4("VLAN 0", e.other_ip4))
    other("VLAN, IPv6", 0x8100, struct.pack("!HH", 5, 0x86dd), packet6("VLAN, IPv6", e.ip6))
    other("stacked VLANs", 0x88a8, struct.pack("!HHHH", 5, 0x8100, 6, 0x0800), packet4("stacked VLANs", e.ip4))
    other("MPLS", 0x8847, bytes(4), packet4("MPLS", e.ip4))
    other("PPPoE discovery", 0x8863)
    other("LLDP", 0x88cc)
    other("an unknown protocol", 0x88b5)
    other("IEEE 802.3", 43, b"\x42\x42\x03")
    return frames


def send_and_see(boxes, lab, frames):
    """Sends frames from inside of the box, and returns which ones arrived at the neighbour and at the client. A
    legal one, which both must see, is sent last."""
    stop = os.urandom(12)
    last = eth(ALL, Ends(boxes).mac, 0x0800, ip4(Ends(boxes).ip4, "255.255.255.255", 17, udp(1, 2, stop)))
    with Sniffer(boxes.show("other")["pid"], "eth0") as other, Sniffer(lab.pids["client"], "uplink") as client:
        boxes.run("debian", "/inside", "frames", input="".join(frame.hex() + "\n" for frame in [*frames.values(), last]))
        return [seen(frames, sniffer.until(stop)) for sniffer in (other, client)]


def seen(frames, arrived):
    """A frame is known by the mark in it, else by all that is behind its MACs. (The kernel takes VLAN tags off for
    whoever listens, and a bridge may take off what stands behind a packet's end.)"""
    found = set()
    for label, frame in frames.items():
        known = mark(label) if mark(label) in frame else frame[12:]
        if any(known in other for other in arrived):
            found.add(label)
    return found


def mark(label):
    return f"<{label}>".encode()


def test_a_boxs_own_frames_arrive(boxes, lab):
    frames = legal_frames(Ends(boxes))
    assert send_and_see(boxes, lab, frames) == [set(frames), set(frames)]


def test_nobody_spoofs(boxes, lab):
    assert send_and_see(boxes, lab, forged_frames(Ends(boxes))) == [set(), set()]


def test_the_forged_frames_would_arrive(boxes, lab):
    """That test_nobody_spoofs can fail: without the box's rules every one of these frames reaches the client."""
    shown = boxes.show("debian")
    rules = boxes.node.exec("nft", "list", "table", "netdev", shown["host_end"]).stdout
    boxes.node.exec("nft", "delete", "table", "netdev", shown["host_end"])
    try:
        frames = forged_frames(Ends(boxes))
        at_other, at_client = send_and_see(boxes, lab, frames)
        assert at_client == set(frames)
        # The neighbour's own rules keep some away: those that claim its addresses.
        assert {"an unknown protocol", "VLAN", "the client's IPv4", "router advertisement"} <= at_other
        assert not {"ARP reply for the neighbour", "advertisement for the neighbour"} & at_other
    finally:
        boxes.node.exec("nft", "-f", "-", input=rules)
        for name in ("debian", "other"):  # what was believed meanwhile
            boxes.sh(name, "ip neigh flush all; ip -6 neigh flush all")
        for machine in lab.machines:
            lab.exec(machine, "sh", "-c", "ip neigh flush all; ip -6 neigh flush all")
        boxes.run("debian", "ping", "-c1", "-W10", CLIENT4)


def test_rules_hold_when_the_box_changes_its_interface(boxes, lab, sh):
    e = Ends(boxes)
    try:
        refused(boxes, f"ip addr add {e.other_ip4}/32 dev eth0; ping -c2 -W1 -I {e.other_ip4} {CLIENT4}")
        refused(boxes, f"ip -6 addr add {e.other_ip6}/128 dev eth0 nodad; ping -c2 -W1 -I {e.other_ip6} {CLIENT6}")
        refused(boxes, f"ip link set eth0 address {e.other_mac}; ping -c2 -W1 {CLIENT4}")
        # The neighbour goes on undisturbed.
        assert boxes.run("other", "ping", "-c2", "-W5", CLIENT4).returncode == 0
    finally:
        sh(f"""
            ip link set eth0 address {e.mac}; ip addr del {e.other_ip4}/32 dev eth0
            ip -6 addr del {e.other_ip6}/128 dev eth0 || :""")
    sh(f"ping -c1 -W10 {CLIENT4}; ping -c1 -W10 {CLIENT6}")


def test_users_of_the_box_ping(boxes, sh):
    """Not only its root: Debian 13's ping has no privilege of its own."""
    sh("useradd --create-home pinger")
    sh(f"su - pinger -c 'ping -c1 -W10 {CLIENT4} && ping -c1 -W10 {CLIENT6}'")
    sh("userdel --remove pinger")


def test_the_box_cannot_see_its_neighbours_traffic(boxes, lab):
    """What the bridge floods for a MAC that it does not know is none of the box's business."""
    word, shown = os.urandom(12), boxes.show("debian")
    with Sniffer(shown["pid"], "eth0") as sniffer:
        for frame in (eth("02:00:00:00:99:99", boxes.show("other")["mac"], 0x0800,
                          ip4(Ends(boxes).other_ip4, "10.77.0.199", 17, udp(1, 2, word))),
                      eth(ALL, boxes.show("other")["mac"], 0x0800,
                          ip4(Ends(boxes).other_ip4, "255.255.255.255", 17, udp(1, 2, b"last one of them")))):
            boxes.run("other", "/inside", "frames", input=frame.hex() + "\n")
        assert not [frame for frame in sniffer.until(b"last one of them") if word in frame]


# --- what must work inside

def test_its_own_firewall(boxes, lab, sh):
    try:
        sh("""
            iptables -A INPUT -p tcp --dport 99 -j DROP
            ip6tables -A INPUT -p tcp --dport 99 -j DROP
            nft add table inet own; nft 'add chain inet own in { type filter hook input priority 0; }'
            nft add rule inet own in icmp type echo-request drop""")
        assert "--dport 99 -j DROP" in sh("iptables -S") and "echo-request drop" in sh("nft list ruleset")
        address = Ends(boxes).ip4
        assert lab.exec("client", "ping", "-c2", "-W1", address, check=False).returncode == 1
        assert "own" not in lab.exec("node1", "nft", "list", "ruleset").stdout.split()
        sh("nft delete table inet own")
        lab.exec("client", "ping", "-c1", "-W10", address)
    finally:
        sh("iptables -F; ip6tables -F; nft flush ruleset")


def test_its_own_routes_and_interfaces(boxes, lab, sh):
    sh(f"""
        ip route add 192.0.2.0/24 via {CLIENT4}; ip link add d0 type dummy; ip addr add 192.0.2.9/32 dev d0
        ip link set d0 up; sysctl -qw net.ipv4.ip_forward=1""")
    try:
        assert f"192.0.2.0/24 via {CLIENT4} dev eth0" in sh("ip route")
        assert "192.0.2.0" not in lab.exec("node1", "ip", "route").stdout
        assert "d0" not in lab.exec("node1", "ip", "-brief", "link").stdout.split()
    finally:
        sh("ip link del d0; ip route del 192.0.2.0/24; sysctl -qw net.ipv4.ip_forward=0")


def test_raw_sockets(boxes, sh):
    sh(f"ping -c1 -W10 {CLIENT4}; ping -c1 -W10 {CLIENT6}")
    boxes.run("other", "ping", "-c1", "-W10", CLIENT4)


def test_system_v_ipc_is_the_boxs_own(boxes, sh, lab):
    assert sh("/inside sysv") == "shared\n"
    sh("KEEP=1 /inside sysv")
    try:
        assert "0x00001234" in sh("ipcs -m")
        assert boxes.run("other", "/inside", "sysv").stdout == "shared\n"  # with the same key, exclusively
        assert boxes.sh("other", "cat /proc/sysvipc/shm | wc -l") == "1\n"
        assert "0x00001234" not in lab.exec("node1", "ipcs", "-m").stdout
    finally:
        sh("ipcrm --all")


def test_users_of_its_own(boxes, sh):
    sh("useradd -m -s /bin/sh alice; useradd -m -s /bin/sh bob")
    try:
        sh("su - alice -c 'umask 077; echo of alice >file; mkdir dir; id -un >who'")
        assert sh("cat /home/alice/who; stat -c %U:%a /home/alice/file") == "alice\nalice:600\n"
        refused(boxes, "su - bob -c 'cat /home/alice/file'")
        refused(boxes, "su - bob -c 'kill -0 1'")
        # On disk the ids are the box's own, whatever the box's range on this node is.
        uid = int(sh("id -u alice"))
        assert (boxes.upper("debian") / "home/alice/file").stat().st_uid == uid
        # setuid and setgid programs, and a file's capabilities
        sh("cp /usr/bin/id /srv/id; chmod 4755 /srv/id; cp /usr/bin/id /srv/idg; chown root:bob /srv/idg; chmod 2755 /srv/idg")
        assert sh("su - alice -c '/srv/id -un; /srv/idg -gn'") == "root\nbob\n"
        assert sh("setpriv --reuid=alice --clear-groups id -un") == "alice\n"
    finally:
        sh("userdel -r alice 2>/dev/null; userdel -r bob 2>/dev/null; rm -f /srv/id /srv/idg")


def test_namespaces_inside_of_the_box(sh):
    sh("unshare -Urm sh -c 'mount -t tmpfs tmpfs /mnt; echo x >/mnt/x'; unshare -pf --mount-proc true; ip netns add n; ip netns del n")
    sh("mount -t tmpfs tmpfs /mnt; mount --bind /etc /srv; umount /srv /mnt")


# --- what must be out of reach

@pytest.mark.parametrize("call", [
    (INIT_MODULE,), (FINIT_MODULE,), (DELETE_MODULE,), (KEXEC_LOAD,), (SWAPON,), (SETTIMEOFDAY,), (IOPL, 3), (ACCT,),
], ids=lambda call: str(call[0]))
def test_system_calls_that_are_the_nodes(sh, call):
    assert sh(f"/inside call {' '.join(map(str, call))}").strip() in ("EPERM", "ENOSYS")


def test_io_uring(boxes, sh):
    """Nor is there any, because it could not be moved: neither for what the box started nor for what comes by exec."""
    assert sh(f"/inside call {IO_URING_SETUP} 8 0").strip() == "ENOSYS"
    init = sh("grep Seccomp_filters /proc/1/status").split()
    assert init == ["Seccomp_filters:", "1"]


def test_kernel_modules(boxes):
    refused(boxes, "echo x >/tmp/x.ko; insmod /tmp/x.ko || /sbin/insmod /tmp/x.ko", box="other")
    refused(boxes, "modprobe dummy", box="other")


@pytest.mark.parametrize("device", ["b 8 0", "b 254 0", "b 7 0", "c 1 1", "c 1 2", "c 1 4", "c 10 237", "c 10 200"])
def test_raw_devices_cannot_be_made(boxes, device):
    assert "Operation not permitted" in refused(boxes, f"mknod /root/device {device}")
    assert "not permitted" in refused(boxes, f"mount -t tmpfs tmpfs /mnt && trap 'umount /mnt' EXIT; mknod /mnt/device {device}")


def test_raw_devices_are_not_there(boxes, sh):
    devices = sh("find / -xdev -type b; find /dev -type b -o -type c").split()
    allowed = {"/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero", "/dev/console"}
    assert {at for at in devices if not at.startswith("/dev/pts/")} - allowed == set()
    for device in ("/dev/vda", "/dev/sda", "/dev/mem", "/dev/kmsg", "/dev/loop-control", "/dev/fuse", "/dev/kvm"):
        refused(boxes, f"head -c1 {device}")


def test_the_nodes_disks_cannot_be_mounted(boxes, lab):
    for device in [line.split()[3] for line in lines("/proc/partitions")[2:]][:3]:
        refused(boxes, f"mount -t ext4 -o ro /dev/{device} /mnt")
    refused(boxes, "head -c1M /dev/zero >/tmp/disk; mount -t ext4 -o loop /tmp/disk /mnt")
    for kind in ("debugfs", "tracefs", "securityfs", "configfs", "efivarfs", "pstore"):
        refused(boxes, f"mount -t {kind} none /mnt")


def test_kernel_memory_is_out_of_reach(boxes, sh):
    refused(boxes, "head -c1 /proc/kcore")
    refused(boxes, "head -c1 /dev/mem")
    addresses = {line.split()[0] for line in sh("cat /proc/kallsyms || :").splitlines()}
    assert addresses <= {"0" * 16}
    assert {line.split("-")[0].strip() for line in sh("cat /proc/iomem || :").splitlines()} <= {"00000000"}


def test_the_kernels_log(boxes, sh):
    """The node's kernel log tells of other boxes. A node keeps it to its root (kernel.dmesg_restrict)."""
    if lines("/proc/sys/kernel/dmesg_restrict") == ["0"]:
        pytest.skip("kernel.dmesg_restrict is 0 on this machine")
    assert sh(f"/inside call {SYSLOG} 10").strip() == "EPERM"


def test_sysctls_of_the_node(boxes, sh, lab):
    own = ("/proc/sys/net/", "/proc/sys/user/", "/proc/sys/fs/mqueue/", "/proc/sys/kernel/msg", "/proc/sys/kernel/sem",
           "/proc/sys/kernel/shm", "/proc/sys/kernel/auto_msgmni", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname",
           "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/pid_max",  # of its pid namespace (Linux 6.14)
           "/proc/sys/fs/binfmt_misc")
    assert [at for at in sh("find /proc/sys -type f -writable").split() if not at.startswith(own)] == []
    for name in ("kernel/core_pattern", "kernel/modprobe", "kernel/sysrq", "kernel/panic",
                 "vm/overcommit_memory", "vm/drop_caches", "fs/file-max", "kernel/randomize_va_space"):
        refused(boxes, f"echo 1 >/proc/sys/{name}")
    refused(boxes, "echo h >/proc/sysrq-trigger")
    # Its own namespaces are its own.
    before = lab.exec("node1", "sysctl", "-n", "net.ipv4.ip_forward").stdout
    sh("sysctl -qw net.ipv4.ip_forward=1; sysctl -qw net.ipv4.ip_forward=0; hostname changed; hostname debian")
    assert lab.exec("node1", "sysctl", "-n", "net.ipv4.ip_forward").stdout == before
    assert lab.exec("node1", "hostname").stdout == "node1\n"


def test_sys_is_not_writable(boxes, sh):
    assert sh("find /sys -type f -writable 2>/dev/null || :") == ""
    # Its root may mount it anew, which gives it what belongs to its own network only.
    writable = boxes.sh("debian", """
        unshare -m sh -c 'mount -t sysfs sysfs /mnt && find /mnt -type f -writable 2>/dev/null | grep -v "/net/\\(eth0\\|lo\\)/"' || :""")
    assert writable == ""
    refused(boxes, "unshare -m sh -c 'mount -o remount,rw /sys; echo 1 >/sys/kernel/mm/ksm/run'")
    refused(boxes, "unshare -m sh -c 'mount -o remount,rw /sys; echo never >/sys/kernel/mm/transparent_hugepage/enabled'")


def test_control_groups(boxes, sh):
    """A box can neither raise its limits nor thaw itself."""
    refused(boxes, "mount -t cgroup2 cgroup2 /mnt && trap 'umount /mnt' EXIT; echo 1 >/mnt/cgroup.freeze")
    refused(boxes, "mount -t cgroup2 cgroup2 /mnt && trap 'umount /mnt' EXIT; mkdir /mnt/own")
    refused(boxes, "mount -t cgroup2 cgroup2 /mnt && trap 'umount /mnt' EXIT; ls /mnt | grep -E 'other|lab|drover'")


def test_other_boxes_processes(boxes, sh, lab):
    child = lab.popen("node1", "drover-node", "box", "exec", "other", "sh", "-c", "echo there; exec sleep 98765")
    assert child.stdout.readline() == "there\n"
    assert "98765" in lab.exec("node1", "ps", "-eo", "args").stdout
    assert "98765" not in sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ps -eo args").replace("grep", "")
    others, own = boxes.show("other")["pid"], boxes.show("debian")["pid"]
    for pid in (others, own, lab.pids["node1"], os.getpid()):
        assert boxes.run("debian", "sh", "-c", f"kill -0 {pid}", check=False).returncode != 0 or pid < 1000
    assert sh("cat /proc/1/comm") == "init\n"


def test_other_boxes_files_and_the_nodes(boxes, sh, lab):
    boxes.sh("other", "echo of the neighbour >/srv/secret; chmod 644 /srv/secret")
    refused(boxes, "cat /srv/secret")
    for way in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/.."):
        assert sh(f"cat {way}/etc/hostname 2>/dev/null || hostname").strip() == "debian"
        refused(boxes, f"ls {way}/var/lib/drover")
        refused(boxes, f"ls {way}/run/drover")
    # Nothing of the node is mounted there, but for its devices.
    mounts = [line.split() for line in sh("cat /proc/self/mountinfo").splitlines()]
    assert {words[words.index("-") + 1] for words in mounts if not words[4].startswith("/dev/")} <= \
        {"overlay", "proc", "tmpfs", "sysfs"}
    refused(boxes, "umount /dev/null; [ ! -c /dev/null ]")


def test_the_layers_cannot_be_changed(boxes, sh, lab):
    """What one box writes into a file of the template is its own."""
    sh("echo changed >>/etc/hosts; chmod 777 /usr; rm /usr/bin/less")
    boxes.start("second", "debian-13")
    assert "changed" not in boxes.sh("second", "cat /etc/hosts") and boxes.sh("second", "stat -c %a /usr; ls /usr/bin/less") == "755\n/usr/bin/less\n"
    boxes.drover("box", "destroy", "--force", "second")


def test_its_root_is_nobody_outside(boxes, lab):
    for box in ("debian", "other"):
        shown = boxes.show(box)
        group = lab.group / "node1/drover" / box / "cgroup.procs"
        assert lines(group)
        for pid in lines(group):
            status = dict(line.split(":", 1) for line in lines(f"/proc/{pid}/status"))
            for ids in (status["Uid"], status["Gid"]):
                assert all(shown["id_base"] <= int(number) < shown["id_base"] + 65536 for number in ids.split())
