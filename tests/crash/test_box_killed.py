"""drover-node is killed, or told that the disk is full, at any step of create, start, stop and destroy. `list` tells the
truth about what that left, the next command handles it, and nothing remains after destroy."""

import collections
import re

import pytest

from boxes import STATE, Boxes

# Every system call by which drover-node changes something outside of its own memory.
STEPS = ("openat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,mount,umount2,open_tree,mount_setattr,"
         "move_mount,sendmsg,sendto,write,fsync,flock,ioctl,clone,clone3,fork,vfork,kill,pidfd_open,pidfd_send_signal,"
         "chmod,fchmod,fchmodat,chown,lchown,fchownat,ftruncate,symlinkat,linkat")
NEXT = ("start", "stop", "destroy")
NEEDS_SPACE = ("openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "write", "fsync", "ftruncate")


class Steps:
    """A box command run under strace, which kills it or lets one of its calls fail."""

    def __init__(self, boxes):
        self.boxes, self.node = boxes, boxes.node

    def strace(self, *words):
        return self.node.exec("strace", "-qq", "-e", f"trace={STEPS}", *words, check=False, timeout=60)

    def of(self, *words):
        """Runs the command to its end, and returns its steps behind the loader's: a system call's name, how many of
        that name there were up to it, which is what strace counts, and the call itself."""
        result = self.strace("-o", "/run/steps", "drover-node", "box", *words)
        assert result.returncode == 0, result.stderr
        steps, counts, begun = [], collections.Counter(), False
        for line in self.node.path("/run/steps").read_text().splitlines():
            if call := re.match(r"(\w+)\(", line):
                counts[call[1]] += 1
                begun = begun or "/locks/" in line
                if begun:
                    steps.append((call[1], counts[call[1]], line))
        self.node.path("/run/steps").unlink()
        assert len(steps) > 10
        return steps

    def run(self, what, step, *words):
        """The exit status and stderr of a command to which something happens at one step."""
        name, number, _ = step
        return self.strace("-o", "/dev/null", "-e", f"inject={name}:{what}:when={number}", "drover-node", "box", *words)


@pytest.fixture(scope="module")
def boxes(lab, templates):
    with Boxes(lab, first=80) as made:
        yield made


@pytest.fixture
def steps(boxes):
    yield Steps(boxes)
    for box in boxes.list():
        boxes.drover("box", "destroy", "--force", box["name"])


def spread(steps, count):
    """At most `count` of the steps, the first and the last among them."""
    count, last = min(count, len(steps)), len(steps) - 1
    return [steps[last * k // (count - 1)] for k in range(count)]


def check_truth(boxes, name):
    """What `list` says is what the kernel knows. Returns the state; None when there is no such box."""
    said = {box["name"]: box["state"] for box in boxes.list()}.get(name)
    events = boxes.node.path(f"/sys/fs/cgroup/drover/{name}/cgroup.events")
    populated = events.exists() and "populated 1" in events.read_text()
    if said is None:
        assert not populated and not boxes.node.path(f"{STATE}/boxes/{name}").exists()
        return None
    assert said in ("stopped", "running", "unfinished")
    if said == "stopped":
        assert not populated
    if said == "running":
        shown = boxes.show(name)
        assert populated and "accept" in boxes.node.exec("nft", "list", "table", "netdev", shown["host_end"]).stdout
        assert boxes.run(name, "hostname").stdout == f"{name}\n"
    return said


def goes_on(boxes, lab, name, command):
    """The next command handles what is there, and a destroy leaves nothing."""
    if command == "start":
        if check_truth(boxes, name) == "running":
            assert "runs already" in boxes.fails("start", name)
        else:
            boxes.drover("box", "start", name)
        assert check_truth(boxes, name) == "running"
        lab.exec("client", "ping", "-n", "-c1", "-W10", boxes.show(name)["addresses"][0].split("/")[0])
    elif command == "stop":
        boxes.drover("box", "stop", name)
        assert check_truth(boxes, name) == "stopped"
        assert boxes.remains(name) == [f"{STATE}/boxes/{name}"]
    boxes.drover("box", "destroy", "--force", name)
    assert check_truth(boxes, name) is None
    assert boxes.remains(name) == []


CREATE = ("create", "box", "--template", "shell", "--ip", "10.77.0.90/24", "--ip", "fd77::1:90/64")
CREATE_IMAGE = (*CREATE, "--volume", "image:64M")


def prepare(boxes, command, create=CREATE):
    """Brings the box into the state in which the command does all of its work."""
    if command == "create":
        return create
    if not boxes.list():
        boxes.drover("box", *create)
    if command in ("stop", "destroy") and boxes.state("box") != "running":
        boxes.drover("box", "start", "box")
    return (command, "box", *(("--force",) if command == "destroy" else ()))


def changes(name, _, call):
    """Not so the calls that only looked, or failed: a kill before one of them leaves what a kill before the next does."""
    return " = -1 " not in call and "_GET" not in call and (name != "openat" or "O_CREAT" in call)


def cases():
    for command, count in {"create": 9, "start": 22, "stop": 10, "destroy": 12}.items():
        yield pytest.param(command, count, CREATE_IMAGE, id=f"{command}-image")
        yield pytest.param(command, 100000, CREATE, id=f"{command}-every-step", marks=pytest.mark.exhaustive)
        yield pytest.param(command, 100000, CREATE_IMAGE, id=f"{command}-image-every-step", marks=pytest.mark.exhaustive)


@pytest.mark.limit(1800)
@pytest.mark.parametrize("command, count, create", cases())
def test_killed(boxes, lab, steps, command, count, create):
    all_steps = [step for step in steps.of(*prepare(boxes, command, create)) if changes(*step)]
    for box in boxes.list():
        boxes.drover("box", "destroy", "--force", box["name"])
    seen, missed = set(), []
    for turn, step in enumerate(spread(all_steps, count)):
        result = steps.run("signal=SIGKILL", step, *prepare(boxes, command, create))
        if result.returncode == 0:
            missed.append(step)  # this time the command made fewer such calls than when they were listed
            for box in boxes.list():
                boxes.drover("box", "destroy", "--force", box["name"])
            continue
        state = check_truth(boxes, "box")
        seen.add(state)
        if state is None:
            boxes.drover("box", *create)  # sweeps what is left of a box that never was, or is no more
        goes_on(boxes, lab, "box", NEXT[turn % len(NEXT)])
    assert len(missed) <= len(spread(all_steps, count)) // 10, missed
    # The kills were spread over the whole command: both what was before and what was to be has been seen.
    assert {"create": {None, "stopped"}, "start": {"stopped", "running"}, "stop": {"running", "stopped"},
            "destroy": {"running", None}}[command] <= seen


def needs_space(name, _, call):
    return name in NEEDS_SPACE and (name != "openat" or "O_CREAT" in call)


@pytest.mark.limit(1800)
@pytest.mark.parametrize("command, count", [pytest.param("create", 12, id="create"), pytest.param("start", 20, id="start")])
def test_no_space_at_any_step(boxes, steps, command, count):
    all_steps = [step for step in steps.of(*prepare(boxes, command)) if needs_space(*step)]
    for box in boxes.list():
        boxes.drover("box", "destroy", "--force", box["name"])
    failed = 0
    for step in spread(all_steps, count):
        before = prepare(boxes, command) and check_truth(boxes, "box")
        result = steps.run("error=ENOSPC", step, *prepare(boxes, command))
        state = check_truth(boxes, "box")
        if result.returncode == 0:
            assert state == {"create": "stopped", "start": "running"}[command]
        elif state != before:
            # Done, and only the words about it could not be written.
            assert step in all_steps[-2:], (step, result.stderr)
        else:
            failed += 1
            assert result.returncode == 1, (step, result.stderr)
            said = result.stderr.splitlines()
            assert said[0].startswith("error: ") and "No space left on device" in result.stderr, (step, said)
            assert "defect" not in result.stderr
            if command == "create":
                assert boxes.remains("box") == [], step
            else:
                assert boxes.remains("box") == [f"{STATE}/boxes/box"], step
        if state:
            boxes.drover("box", "destroy", "--force", "box")
    assert failed > 3


@pytest.fixture
def full_disk(boxes, lab):
    """A state directory with the templates on a file system that has no room left, and the file that fills it."""
    node = boxes.node
    node.exec("sh", "-ec", f"""
        mount -t tmpfs -o size=16m tmpfs /mnt; mkdir /mnt/state /mnt/state/layers /mnt/state/layers/sha256
        cp -a {STATE}/templates {STATE}/keys /mnt/state
        rm -r /mnt/state/templates/debian-13 /mnt/state/templates/redis
        cp -a $(find {STATE}/layers -size -8M -name '*.erofs') /mnt/state/layers/sha256
        dd if=/dev/zero of=/mnt/fill bs=4k status=none || :""")
    yield node.path("/mnt/fill")
    for box in node.json("drover-node", "--json", "--state-dir", "/mnt/state", "--run-dir", "/run/drover-full", "box", "list"):
        node.exec("drover-node", "--state-dir", "/mnt/state", "--run-dir", "/run/drover-full", "box", "destroy", "--force", box["name"])
    node.exec("umount", "/mnt")


def test_full_disk(boxes, full_disk):
    def drover(*words):
        return boxes.drover("--state-dir", "/mnt/state", "--run-dir", "/run/drover-full", "box", *words, check=False)

    result = drover(*CREATE)
    assert result.returncode == 1
    assert re.fullmatch(r"error: cannot .*: No space left on device\n(hint: .*\n)?", result.stderr), result.stderr
    assert drover("list").stdout.splitlines()[1:] == []
    assert not list(boxes.node.path("/mnt/state/boxes").glob("*"))

    full_disk.unlink()
    assert drover(*CREATE).returncode == 0
    boxes.node.exec("sh", "-c", "dd if=/dev/zero of=/mnt/fill bs=4k status=none || :")
    result = drover("start", "box")
    if result.returncode:
        assert result.returncode == 1 and "No space left on device" in result.stderr
    assert drover("stop", "box").returncode == 0
    full_disk.unlink()
    assert drover("start", "box").returncode == 0
    assert drover("exec", "box", "hostname").stdout == "box\n"
    boxes.node.exec("sh", "-c", "dd if=/dev/zero of=/mnt/fill bs=4k status=none || :")
    assert drover("stop", "box").returncode == 0  # what frees space must not need any
    assert drover("destroy", "box").returncode == 0
    assert drover("list").stdout.splitlines()[1:] == []


@pytest.mark.limit(180)
def test_room_for_some_files(boxes, full_disk):
    """A box starts on a disk that is as good as full, whatever its first files are, or says why it does not."""
    def drover(*words):
        return boxes.drover("--state-dir", "/mnt/state", "--run-dir", "/run/drover-full", "box", *words, check=False)

    full_disk.unlink()
    outcomes = []
    for room in range(12):
        assert drover(*CREATE).returncode == 0
        used = int(boxes.node.exec("df", "--output=iused", "/mnt").stdout.split()[1])
        boxes.node.exec("mount", "-o", f"remount,nr_inodes={used + room}", "/mnt")
        result = drover("start", "box")
        if result.returncode:
            assert result.returncode == 1
            assert re.search(r"^error: cannot .*: No space left on device$", result.stderr, re.M), result.stderr
        else:
            # Its init would have ended by now.
            assert drover("exec", "box", "sleep", "0.5").returncode == 0, (room, drover("list").stdout)
            assert "running" in drover("list").stdout, room
        outcomes.append(result.returncode)
        boxes.node.exec("mount", "-o", "remount,nr_inodes=100000", "/mnt")
        assert drover("destroy", "--force", "box").returncode == 0
    assert outcomes[-1] == 0
