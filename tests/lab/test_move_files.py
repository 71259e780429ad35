"""The private layer after a move is the private layer before it; and what programs hold open goes with them."""

import hashlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import stat
import struct
import warnings

import pytest
from boxes import inside_program
from conftest import command_line, lines, until
from moves import Box, Counter, Database, Halted, rounds_of
from test_postcopy import bytes_of

LONGEST = b"n" * 255
NAMES = [b"two\nlines", LONGEST, b"\xff\xfe not UTF-8", b" ", b"-rf", "Größe".encode(), b"back\\slash", b"\\012"]
CAPABILITY = struct.pack("<IIIII", 0x02000000 | 1, 1 << 10, 0, 0, 0)  # cap_net_bind_service+ep, capability.h
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in (
    (0x01, 6, 0xffffffff), (0x02, 4, 33), (0x04, 4, 0xffffffff), (0x10, 4, 0xffffffff), (0x20, 0, 0xffffffff)))


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


def in_box(box, function, init=None):
    """Calls a function of this file as root of a box, in the box's namespaces, and returns what it returns. `init`: where
    the box is just being moved."""
    init = init or box.show()["pid"]
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()  # other threads of this process only wait
    if child == 0:
        try:
            spaces = [os.open(f"/proc/{init}/ns/{kind}", os.O_RDONLY) for kind in ("user", "pid", "mnt")]
            for space in spaces:
                os.setns(space)
            if child := os.fork():  # only a child is in the pid namespace
                os._exit(os.waitpid(child, 0)[1])
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.umask(0o022)
            result = (True, function())
        except BaseException as problem:  # the parent raises it
            result = (False, repr(problem))
        with open(writing, "wb") as pipe:
            pickle.dump(result, pipe)
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        good, value = pickle.load(pipe)
    os.waitpid(child, 0)
    assert good, value
    return value


def make_files():
    os.mkdir("/srv/files")
    os.chdir("/srv/files")
    for name in NAMES:
        with open(name, "wb") as file:
            file.write(b"content of " + name)
    os.mkdir(b"dir " + LONGEST[:200])
    for size in (0, 1, 4095, 4096, 4097, 1 << 20, 5_000_001):
        with open(f"size{size}", "wb") as file:
            file.write(os.urandom(min(size, 1 << 16)) * (size // (1 << 16) + 1))
            file.truncate(size)
    with open("sparse", "wb") as file:
        file.truncate(64 << 20)
        for at in (0, 8 << 20, 40 << 20):
            file.seek(at)
            file.write(b"data")
    with open("hole", "wb") as file:
        file.truncate(3_000_000)
    with open("links", "w") as file:
        file.write("one file")
    os.mkdir("other")
    for name in ("links2", "links3", "other/links4"):
        os.link("links", name)
    os.symlink("links", "to a file")
    os.symlink("nowhere", "to nothing")
    os.symlink("/" + "long/" * 800, "far")
    os.link("to nothing", "link to a link")
    os.mkfifo("fifo", 0o640)
    os.link("fifo", "fifo2")
    socket.socket(socket.AF_UNIX).bind("socket")
    for mode in (0o4755, 0o2755, 0o000, 0o1777):
        with open(f"mode{mode:o}", "w"):
            pass
        os.chown(f"mode{mode:o}", 33, 65533)
        os.chmod(f"mode{mode:o}", mode)
    os.mkdir("sticky")
    os.chmod("sticky", 0o3777)
    with open("attributes", "w") as file:
        file.write("x")
    os.setxattr("attributes", "user.empty", b"")
    os.setxattr("attributes", "user.binary", bytes(range(256)) * 4)
    os.setxattr("sticky", "user.of a directory", b"yes")
    os.setxattr("attributes", "system.posix_acl_access", ACL)
    os.setxattr("sticky", "system.posix_acl_default", ACL)
    shutil.copy("/usr/bin/busybox", "busybox-able")
    os.chmod("busybox-able", 0o755)
    os.setxattr("busybox-able", "security.capability", CAPABILITY)
    path = "deep"
    for _ in range(60):
        os.mkdir(path)
        path += "/deeper"
    # What was in the template, and is changed, gone, or something else now.
    os.unlink("/etc/hosts")
    os.unlink("/etc/group")
    os.mkdir("/etc/group")
    shutil.rmtree("/var/tmp")
    os.mkdir("/var/tmp")  # opaque
    with open("/var/tmp/new", "w") as file:
        file.write("in an opaque directory")
    os.chmod("/root", 0o711)
    with open("/etc/passwd", "a") as file:
        file.write("someone:x:1000:1000::/:/bin/sh\n")
    os.utime("/etc/passwd", ns=(123456789, 987654321987654321))
    os.utime("to nothing", ns=(1, 1_000_000_001), follow_symlinks=False)
    os.utime("other", ns=(5, -1_500_000_000))
    os.sync()


def look_inside():
    """What a program in the box can tell of those files."""
    os.chdir("/srv/files")
    with open("links", "a") as file:
        file.write("!")
    return {"links": len({os.stat(name).st_ino for name in ("links", "links2", "links3", "other/links4")}),
            "through a link": open("other/links4").read(), "capability": os.getxattr("busybox-able", "security.capability"),
            "acl": os.getxattr("attributes", "system.posix_acl_access"), "gone": os.path.exists("/etc/hosts"),
            "opaque": os.listdir("/var/tmp"), "names": sorted(os.listdir(b".")),
            "owner": os.stat("mode4755").st_uid}


def dump(root):
    """All that a directory tree is, written without a look at the product's own code for that."""
    root, found, inodes = os.fsencode(root), {}, {}
    for at, directories, files in os.walk(root):
        for name in [b".", *directories, *files] if at == root else [*directories, *files]:
            path = os.path.join(at, name)
            s = os.lstat(path)
            attributes = {key: os.getxattr(path, key, follow_symlinks=False)
                          for key in os.listxattr(path, follow_symlinks=False)}
            # Of one mount only (docs/formats/move-wire.md).
            for key in ("origin", "impure", "nlink", "uuid", "upper"):
                attributes.pop(f"trusted.overlay.{key}", None)
            entry = {"mode": s.st_mode, "owner": (s.st_uid, s.st_gid), "device": s.st_rdev, "attributes": attributes,
                     "mtime": s.st_mtime_ns}
            if not stat.S_ISDIR(s.st_mode):
                # Not st_nlink: overlayfs keeps names of its own, in its work directory.
                entry["same as"] = inodes.setdefault(s.st_ino, os.path.relpath(path, root))
            if stat.S_ISREG(s.st_mode):
                entry |= {"size": s.st_size, "data": extents(path)}
                with open(path, "rb") as file:
                    entry["content"] = hashlib.file_digest(file, "sha256").hexdigest()
            if stat.S_ISLNK(s.st_mode):
                entry["target"] = os.readlink(path)
            found[os.path.relpath(path, root)] = entry
    # The first name of a file depends on the order in which the directory tells them.
    first = {}
    for path in sorted(found):
        if "same as" in found[path]:
            found[path]["same as"] = first.setdefault(found[path]["same as"], path)
    return found


def extents(path):
    found, at = [], 0
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        while at < end:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole
                break
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, at))
    return found


def difference(old, new):
    return {path: (old.get(path), new.get(path)) for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


@pytest.mark.limit(120)
def test_private_layer_arrives_as_it_is(lab, make_box):
    box = make_box("files", "shell", 60)
    in_box(box, make_files)
    old = dump(box.upper())
    assert len(old) > 100
    assert any(stat.S_ISCHR(entry["mode"]) and entry["device"] == 0 for entry in old.values()), "a whiteout"
    assert any("trusted.overlay.opaque" in entry["attributes"] for entry in old.values())
    for turn in range(2):
        box.migrate()
        new = dump(box.upper())
        if b"tmp" not in old:
            new.pop(b"tmp")  # CRIU had a directory there for a moment
        assert not difference(old, new), "\n".join(map(str, difference(old, new).items()))
        inside = in_box(box, look_inside)
        assert inside["links"] == 1
        assert inside["through a link"] == "one file" + "!" * (turn + 1)
        assert inside["capability"] == CAPABILITY
        assert inside["acl"] == ACL
        assert (inside["gone"], inside["opaque"], inside["owner"]) == (False, ["new"], 33)
        assert set(NAMES) <= set(inside["names"])
        old = dump(box.upper())


@pytest.mark.limit(120)
def test_file_capability_counts(lab, make_box):
    """Not only the bytes of it: the kernel gives the capability to who runs the file, after the move too."""
    box = make_box("able", "shell", 61)
    in_box(box, make_files)
    for _ in range(3):
        assert in_box(box, capabilities_of_nobody) == {"busybox-able": 1 << 10, "/usr/bin/busybox": 0}
        box.migrate()


def capabilities_of_nobody():
    """What nobody may do with each of two programs."""
    found = {}
    os.chdir("/srv/files")
    for program in ("busybox-able", "/usr/bin/busybox"):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(writing, 1)
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.execv(program, ["busybox", "cat", "/proc/self/status"])
        os.close(writing)
        with open(reading) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        found[program] = int(next(line.split()[1] for line in text.splitlines() if line.startswith("CapEff")), 16)
    return found


PROGRAM = r"""
use strict; use warnings; use Socket; use IO::Handle; use IO::Socket;
mkdir "/srv/held"; chdir "/srv/held";
open(my $gone, "+>", "gone") or die; print $gone "nobody else sees this"; $gone->flush; unlink "gone";
open(my $moved, "+>", "first") or die; print $moved "it has another name"; $moved->flush; link "first", "second"; unlink "first";
open(my $log, ">>", "log") or die; $log->autoflush(1);
pipe(my $out, my $in) or die; $in->autoflush(1);
socketpair(my $near, my $far, AF_UNIX, SOCK_STREAM, 0) or die; $near->autoflush(1); $far->autoflush(1);
my $named = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "/srv/held/socket", Listen => 5) or die;
my $client = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => "/srv/held/socket") or die;
my $served = $named->accept; $served->autoflush(1); $client->autoflush(1);
my $child = fork;
if ($child == 0) { close $near; while (my $line = <$far>) { print $far "child: $line"; } exit 0; }
close $far;
my $udp = IO::Socket::INET->new(Proto => "udp", LocalPort => 7777) or die;
my $n = 0;
print $in "waits in the pipe\n"; print $client "waits in the socket\n";
while (1) {
  my $peer = $udp->recv(my $question, 1000); defined $peer or next;
  $n++;
  seek $gone, 0, 0; seek $moved, 0, 0;
  my $a = <$gone>; my $b = <$moved>;
  my $p = <$out>; my $s = <$served>; chomp($p, $s);
  print $near "hello $n\n"; my $c = <$near>; chomp $c;
  print $log "answer $n\n";
  print $in "waits in the pipe\n"; print $client "waits in the socket\n";
  $udp->send("$n|$question|$a|$b|$p|$s|$c|" . (-e "gone" ? "there" : "gone") . "|" . join(",", sort glob("*")), 0, $peer);
}
"""


@pytest.mark.limit(150)
def test_what_programs_hold_open(lab, make_box):
    """UDP, pipes and unix sockets with data in them, a deleted file, a file whose open name was deleted."""
    box = make_box("held", "debian-13", 62)
    box.answers(22)
    box.exec("sh", "-c", "cat > /root/program", input=PROGRAM)
    box.exec("sh", "-c", "echo 'p1:2345:respawn:/usr/bin/perl /root/program' >> /etc/inittab; telinit q")
    client = lab.socket("client", kind=socket.SOCK_DGRAM)
    client.settimeout(1)
    asked = []

    def ask():
        asked.append(f"question {len(asked)}")
        client.sendto(asked[-1].encode(), (box.ip4, 7777))
        try:
            while True:
                answer = client.recv(2000).decode().split("|")
                if answer[1] == asked[-1]:
                    return answer
        except TimeoutError:
            return None

    first = until("the program answers", ask, timeout=40)
    for _ in range(3):
        before = int(until("the program answers", ask)[0])
        box.migrate()
        answer = until("the program answers", ask, timeout=20)
        assert int(answer[0]) > before  # it is the same process, with what it had counted
        assert answer[2:] == ["nobody else sees this", "it has another name", "waits in the pipe",
                              "waits in the socket", f"child: hello {answer[0]}", "gone", "log,second,socket"]
        assert answer[2:6] == first[2:6]
    assert (box.upper() / "srv/held/log").read_text().splitlines()[-1] == f"answer {answer[0]}"
    client.close()


@pytest.mark.limit(120)
@pytest.mark.parametrize("mode", ["stop", "precopy"])
def test_a_store_through_a_mapping_below_a_bind_mount(lab, make_box, tmp_path, mode):
    """Nobody is told of the store, and the path of the mapping is not the file's in the private layer."""
    box = make_box("stores", "debian-13", 79)
    program = box.upper() / "inside"
    program.write_bytes(inside_program(tmp_path))
    program.chmod(0o755)
    box.exec("sh", "-c", "mkdir /srv/stored /mnt/seen && mount --bind /srv/stored /mnt/seen && "
                         "{ setsid /inside store /mnt/seen/file </dev/null >/dev/null 2>&1 & }")
    stored = until("it has stored", lambda: lines(box.upper() / "srv/stored/file"))[0].count("x")
    move = Halted(box, "source.rounds", tmp_path, "--mode", mode, "--force")
    group = lab.group / move.source / "drover" / box.name / "cgroup.procs"
    (pid,) = [int(pid) for pid in lines(group) if command_line(pid).startswith("/inside store")]
    os.kill(pid, signal.SIGUSR1)
    until("it has stored again", lambda: (box.upper(move.source) / "srv/stored/file").read_bytes().count(b"x") > stored)
    assert move.go_on() == 0, move.err
    assert (box.upper() / "srv/stored/file").read_bytes().count(b"x") == stored + 1


def make_many():
    os.mkdir("/srv/many")
    for number in range(3000):
        with open(f"/srv/many/{number}", "wb") as file:
            file.write(b"%d" % number)


@pytest.mark.limit(120)
def test_a_round_looks_at_what_has_changed(lab, make_box):
    """The first one at everything; the last one, while the box is frozen, at what the kernel has told of (fanotify)."""
    box = make_box("watched", "redis", 80).answers(6379)
    in_box(box, make_many)
    client = Counter(lab, box.ip4)  # it writes to its log
    result = lab.exec("node1", "drover-node", "-v", "--json", "box", "migrate", box.name, "--to", "node2", "--max-downtime", "60000")
    rounds = rounds_of(result.stderr)
    of_layer = [(names, watched) for names, watched, _ in rounds]
    assert of_layer[0][0] > 3000 and not of_layer[0][1], rounds
    watched = [names for names, how in of_layer if how]
    assert len(watched) >= 2 and max(watched) < 100, rounds
    client.finish()
    assert box.exec("sh", "-c", "ls /srv/many | wc -l").stdout == "3000\n"


@pytest.mark.limit(240)
@pytest.mark.parametrize("volume", ["dir", "image:1G"])
def test_of_a_large_file_what_was_written_is_read(lab, make_box, volume):
    """The last round reads so much of a database's file, and the database finds all that it has written."""
    box = make_box("based", "debian-13", 82, "--volume", volume)
    database = Database(box, 512 << 20)
    for mode in ("precopy", "postcopy"):
        here = box.node()
        result = lab.exec(here, "drover-node", "-v", "--json", "box", "migrate", box.name, "--to", box.other(), "--mode", mode,
                          "--max-downtime", "60000", timeout=120)
        read = [read for _, _, read in rounds_of(result.stderr)]
        print({phase["name"]: phase["ms"] for phase in json.loads(result.stdout)["phases"]}, read)
        assert read[0] >= 512 << 20
        # Of the rounds of files the last one is in the freeze; CRIU's images come beside it.
        assert sum(read[-2:]) < 100 << 20
        until("the source has let go", lambda here=here: box.node() != here, timeout=20)
        database.check()


def rotate():
    os.rename("/srv/log", "/srv/log.1")
    with open("/srv/log", "w") as file:
        file.write("a new one")


@pytest.mark.limit(120)
def test_a_large_log_is_rotated_before_the_freeze(lab, make_box, tmp_path):
    """The destination has it, and renames it as well."""
    box = make_box("rotated", "shell", 81)
    box.exec("dd", "if=/dev/urandom", "of=/srv/log", "bs=1M", "count=40")
    content = box.exec("sha256sum", "/srv/log").stdout.split()[0]
    init = box.show()["pid"]
    move = Halted(box, "source.rounds", tmp_path, "--mode", "precopy", "--force")
    in_box(box, rotate, init)
    assert move.go_on() == 0, move.err
    assert bytes_of(json.loads(move.out), "last round") < 1 << 20
    assert box.node() == move.destination
    assert box.exec("sha256sum", "/srv/log.1").stdout.split()[0] == content
    assert box.exec("cat", "/srv/log").stdout == "a new one"


def make_text():
    """40 MB that a higher level of zstd makes much smaller than a lower one does: what comes again is far away."""
    chance = random.Random(18)
    phrases = [bytes(chance.choices(b"etaoinshrdlucmfw", k=40)) for _ in range(30_000)]
    with open("/srv/text", "wb") as file:
        for _ in range(1_000_000):
            file.write(chance.choice(phrases))


@pytest.mark.limit(240)
def test_over_a_slow_link_fewer_bytes_go(lab, make_box):
    box = make_box("squeezed", "shell", 78)
    in_box(box, make_text)
    fast = box.migrate("--mode", "stop")
    lab.link("node2", "slow", "10mbit")
    slow = box.migrate("--mode", "stop", timeout=200)
    packed = [report["wire_bytes"] - sum(phase["bytes"] for phase in report["phases"] if phase["name"] == "layers") for report in (slow, fast)]
    assert packed[0] < 0.9 * packed[1], (slow["phases"], fast["phases"])
