"""A box's network namespace is the same wherever it runs, whoever carries it: drover, or CRIU what drover does not know."""

import re
import socket
import threading
import time

import pytest
from conftest import until
from moves import Box, Counter, Halted, nothing_remains

# What there is to see of a network namespace, and of it what differs from one moment to the next.
LOOK = ["ip -d -o link", "ip -d -o address", "ip -4 route show table all", "ip -6 route show table all", "ip rule", "ip -6 rule",
        "ip neigh show nud permanent", "ip -6 neigh show proxy", "nft list ruleset",
        "cd /proc/sys/net && find . -type f ! -name flush ! -name nf_conntrack_count | sort | xargs grep -s . || true"]
OF_THE_MOMENT = re.compile(r"@if\d+|link-netnsid \d+|(valid|preferred)_lft \d+sec|expires \S+|counter packets \d+ bytes \d+| linkdown|numtxqueues.*$",
                           re.MULTILINE)

EVERYTHING = r"""
ip link set eth0 mtu 1400 txqueuelen 77
ip address add 10.77.0.201/24 dev eth0 label eth0:second
ip address add 198.51.100.1/24 dev eth0 noprefixroute
ip address add 127.0.0.2/8 dev lo
ip -6 address add 2001:db8::1/64 dev eth0 valid_lft 10000 preferred_lft 5000
ip -6 address add 2001:db8::2/64 dev eth0 nodad preferred_lft 0
ip route add 192.168.1.0/24 via 10.77.0.202 metric 7 table 100
ip route add blackhole 192.168.2.0/24
ip route add 192.168.3.0/24 nexthop via 10.77.0.202 weight 2 nexthop via 10.77.0.203
ip route add 192.168.4.0/24 via 192.168.9.1 dev eth0 onlink mtu 1300
ip -6 route add 2001:db8:1::/48 via fd77::202 metric 9
ip -6 route add unreachable 2001:db8:4::/48 table 100
ip rule add from 198.51.100.0/24 table 100 priority 100
ip rule del priority 32767
ip -6 rule add fwmark 7/0xff table 100 priority 100
ip neigh add 10.77.0.204 lladdr 02:00:00:00:00:20 dev eth0 nud permanent
ip -6 neigh add proxy fd77::99 dev eth0
cd /proc/sys/net
echo 1 >ipv4/ip_forward; echo 0 >ipv4/conf/eth0/forwarding; echo 2 >ipv4/conf/all/rp_filter; echo 1 >ipv4/conf/default/arp_ignore
echo 99 >core/somaxconn; echo 77 >ipv4/tcp_keepalive_time; echo 4 >ipv4/neigh/eth0/ucast_solicit
nft -f - <<'END'
table inet own {
  set hosts { type ipv4_addr; elements = { 192.0.2.1, 192.0.2.2 }; }
  set seen { type ipv4_addr; flags timeout; elements = { 192.0.2.3 timeout 10h }; }
  counter named { packets 12 bytes 345 }
  quota part { over 5 mbytes used 3 mbytes }
  chain in { type filter hook input priority 0; ip saddr @hosts counter drop; tcp dport 8888 counter name named drop; }
  chain out { type filter hook output priority 0; policy accept; ip daddr @seen accept; }
}
END
"""

# What drover does not know.
OTHERS = {
    "bridge": "ip link add inner type bridge; ip link set inner up; ip address add 203.0.113.1/24 dev inner",
    "veth": "ip link add left type veth peer name right",
    "namespace": "setsid unshare --net sleep 1000 </dev/null >/dev/null 2>&1 & sleep 0.5",
    "dscp": "ip rule add dscp 4 table 9",
}


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
    for box in made:
        box.destroy()


def look(box, commands=LOOK):
    return [[OF_THE_MOMENT.sub("", line).strip() for line in box.exec("sh", "-c", command).stdout.splitlines()]
            for command in commands]


def carrier(box):
    """Who has carried the box's network in its last move: CRIU's log tells of the devices that it made."""
    log = box.lab.node(box.node()).path(f"/run/drover/log/{box.name}.criu.log").read_text()
    return "CRIU" if "Restoring link" in log else "drover"


@pytest.mark.limit(180)
def test_everything_that_is_known(lab, make_box):
    box = make_box("plain", "debian-13", 36).answers(22)
    box.exec("sh", "-ec", EVERYTHING)
    old = look(box)
    for _ in range(2):
        box.migrate()
        assert carrier(box) == "drover"
        for was, now in zip(old, look(box)):
            assert now == was


@pytest.mark.limit(180)
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_known(lab, make_box, kind):
    box = make_box("own", "debian-13", 37).answers(22)
    box.exec("sh", "-ec", OTHERS[kind])
    commands = ["ip -o link | cut -d: -f2 | sort", "ip route", "ip rule"]
    old = look(box, commands)
    for _ in range(2):
        box.migrate()
        assert carrier(box) == "CRIU"
        for was, now in zip(old, look(box, commands)):
            assert now == was


@pytest.mark.limit(120)
def test_connection_by_a_rule_and_another_table(lab, make_box):
    """A connection needs its way also in the moment in which it is made again."""
    box = make_box("ruled", "redis", 38).answers(6379)
    box.exec("sh", "-ec", "ip rule add from all table 100 priority 10; ip route add 10.77.0.0/24 dev eth0 table 100; "
                          "ip route del 10.77.0.0/24 dev eth0 table main")
    client = Counter(lab, box.ip4)
    for _ in range(2):
        box.migrate()
        assert carrier(box) == "drover"
        client.check()
    client.finish()


@pytest.mark.limit(120)
@pytest.mark.parametrize("fault, said", [("text", "the box's eth0 is none: flags"), ("route", "cannot make a route to 192.0.2.0/24"),
                                         ("clash", "there is an interface vb")])
def test_network_that_cannot_be_made(lab, make_box, before, tmp_path, fault, said):
    """Whenever that comes out, the box goes on where it was, and its client notices nothing."""
    box = make_box("refused", "redis", 39).answers(6379)
    client = Counter(lab, box.ip4)
    box.exec("ip", "route", "add", "192.0.2.0/24", "via", "10.77.0.250")
    host_end = box.show()["host_end"]
    move = Halted(box, "destination.restoring", tmp_path)
    image = lab.node(move.destination).path("/run/drover/boxes/refused/images/network.json")
    if fault == "text":
        image.write_text(re.sub(r'"mtu": 1500', '"mtu": 7', image.read_text()))
    elif fault == "route":  # its gateway 10.77.0.250 becomes 172.77.0.250, to which no way leads
        image.write_text(image.read_text().replace("0a4d00fa", "ac4d00fa"))
    else:
        lab.exec(move.destination, "ip", "link", "add", host_end, "type", "bridge")
    assert move.go_on() == 3
    assert said in move.err
    assert box.node() == move.source
    client.check()
    nothing_remains(lab, box, move.destination, before)
    box.migrate()
    client.check()
    client.finish()


TALKER = r"""
use IO::Socket::INET; use Socket qw(IPPROTO_TCP TCP_NODELAY);
my $client = IO::Socket::INET->new("10.77.0.250:7000") or die;
setsockopt($client, IPPROTO_TCP, TCP_NODELAY, 1);
while (syswrite $client, "said\n") { select undef, undef, undef, 0.01 }
"""


class Listener(threading.Thread):
    """Reads what comes on a connection."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.bytes = stream, 0
        self.start()

    def run(self):
        while got := self.stream.recv(1 << 16):
            self.bytes += len(got)

    def check(self):
        before = self.bytes
        until("more comes", lambda: self.bytes > before + 100)

    def finish(self):
        self.stream.shutdown(socket.SHUT_RDWR)
        self.join(10)
        self.stream.close()


@pytest.mark.limit(120)
@pytest.mark.parametrize("late", [False, True], ids=["cable-in-time", "cable-late"])
def test_what_a_box_says_first_arrives(lab, make_box, tmp_path, late):
    """It goes on in the middle of a stream, on a new cable and without a neighbour. Nothing of that is lost: a
    connection that was restored sends again only after a whole second."""
    box = make_box("talker", "debian-13", 35).answers(22)
    box.exec("sh", "-c", "cat >/root/talker", input=TALKER)
    with lab.socket("client") as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 7000))
        listener.listen()
        listener.settimeout(20)
        box.exec("sh", "-c", "setsid perl /root/talker </dev/null >/dev/null 2>&1 &")
        stream, _ = listener.accept()
    heard = Listener(stream)
    host_end = box.show()["host_end"]
    move = Halted(box, "destination.mine", tmp_path)
    if late:
        lab.exec(move.destination, "ip", "link", "set", host_end, "down")
        move.resume()
        time.sleep(0.3)
        lab.exec(move.destination, "ip", "link", "set", host_end, "up")
    assert move.go_on() == 0, move.err
    heard.check()
    time.sleep(1.5)  # what was lost would have been sent again by then
    heard.check()
    names, values = (line.split() for line in box.exec("grep", "^Tcp:", "/proc/net/snmp").stdout.splitlines())
    assert dict(zip(names, values))["RetransSegs"] == "0"
    heard.finish()
