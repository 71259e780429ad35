"""boxes move: freeze and gap by size, against plain and lazy criu by hand and podman"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from common import ROOT, Client, Lab, PeakMemory, attempt, bar, build_templates, figure, median, ratio

ADDRESS = "10.77.0.20"
HERE = pathlib.Path(__file__).parent
FULL = 22  # processes of the full box, with those of its clients


def fresh_box(lab, template):
    """A running box r, of which nothing but its memory has to be moved: what lies on disk would only blur it."""
    lab.give_templates()
    lab.exec("node1", "drover-node", "box", "create", "r", "--template", template, "--ip", f"{ADDRESS}/24")
    lab.exec("node1", "drover-node", "box", "start", "r")
    for setting in ("appendonly no", "save ''"):
        lab.wait_for("node1", "drover-node", "box", "exec", "r", "sh", "-c", f"redis-cli config set {setting}")


def private_layer(lab):
    """In bytes."""
    return int(lab.exec("node1", "du", "-s", "-B1", "/var/lib/drover/boxes/r/private").split()[0])


def move(lab, how):
    """The report of one move, or of one by hand. `how`: drover, one of its modes, or a tool's sequence."""
    if how in ("plain", "lazy", "podman"):
        return json.loads(lab.exec("node1", HERE / f"{how}-sequence", "r", "node2", timeout=120))
    mode = os.environ.get("DROVER_BENCH_MODE") if how == "drover" else how
    argv = ["drover-node", "--json", "box", "migrate", "r", "--to", "node2", "--force", *(("--mode", mode) if mode else ())]
    return json.loads(lab.exec("node1", *argv))


def measure(megabytes, how):
    """Of one move of a fresh redis: freeze and gap in ms, and drover-node's own memory at its peak in MiB."""
    with Lab() as lab:
        fresh_box(lab, "redis")
        with Client(lab, ADDRESS, megabytes) as client:
            if (on_disk := private_layer(lab)) > 64 << 20:
                raise RuntimeError(f"the private layer has {on_disk} bytes: this would not measure memory")
            with PeakMemory(lab) as peak:
                report = move(lab, how)
        predicted = report["predicted"]["freeze_ms"] if "predicted" in report else None
        return {"freeze": report["freeze_ms"], "gap": client.gap_ms, "mib": peak.mib, "predicted": predicted}


def criu_restore_ms(lab, node):
    """CRIU's own account of its last restore. (Of a dump it has none: it finds the box frozen.) The file is an image: two
    magic numbers, the size, and a message of CRIU's images/stats.proto, with another one within."""
    pid = next(machine["pid"] for machine in json.loads(lab.run([ROOT / "ci/lab", "status", "--json"]))["machines"]
               if machine["name"] == node)
    data = pathlib.Path(f"/proc/{pid}/root/run/drover/boxes/r/stats-restore").read_bytes()[12:]

    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if data[at - 1] < 0x80:
                return value, at

    at = varint(varint(0)[1])[1]  # past the outer message's key and size
    while at < len(data):
        key, at = varint(at)
        value, at = varint(at)
        if key >> 3 == 4:  # restore_time, in us
            return value / 1000
    raise RuntimeError("CRIU does not say how long its restore took")


def move_and_ask_criu(lab):
    """The report of a move, and CRIU's account of the restore. The source waits for us when the box runs at the other node."""
    argv = ["drover-node", "--json", "box", "migrate", "r", "--to", "node2", "--force"]
    child = lab.popen("node1", "env", "DROVER_PAUSE_AT=source.running", *argv, stdout=subprocess.PIPE)
    for _ in range(6000):
        for pid in pathlib.Path(f"/sys/fs/cgroup/drover-lab-{lab.name}/node1/lab/cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    criu = criu_restore_ms(lab, "node2")
                    os.kill(int(pid), signal.SIGCONT)
                    return json.loads(child.communicate(timeout=60)[0]), criu
        if child.poll() is not None:
            break
        time.sleep(0.01)
    child.kill()
    raise RuntimeError("the move did not come to its end")


def programs(lab):
    """The name of each of the box's processes, sorted."""
    found = []
    for pid in pathlib.Path(f"/sys/fs/cgroup/drover-lab-{lab.name}/node1/drover/r/cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            found.append(pathlib.Path(f"/proc/{pid}/comm").read_text().strip())
    return sorted(found)


def settled(lab):
    """The names, once all services run and nothing has begun or ended for a second."""
    before = []
    for _ in range(60):
        now = programs(lab)
        if now == before and {"cron", "dbus-daemon", "nginx", "redis-server", "rsyslogd", "sshd"} <= set(now):
            return now
        before = now
        time.sleep(1)
    raise RuntimeError(f"the box does not come to rest: {before}")


class Sessions:
    """`count` clients of the box's PostgreSQL, each with one connection, which has to last."""

    ASK = ("psql", "-X", "-A", "-t", "-h", ADDRESS, "-U", "postgres")

    def __init__(self, lab, count):
        self.clients = [lab.popen("client", *self.ASK, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(count)]

    def __enter__(self):
        for client in self.clients:
            client.stdin.write("select pg_backend_pid();\n")
            client.stdin.flush()
        self.servers = [client.stdout.readline() for client in self.clients]
        return self

    def __exit__(self, kind, *_):
        answers = [client.communicate("select pg_backend_pid();\n", timeout=60)[0] for client in self.clients]
        if kind is None and answers != self.servers:
            raise RuntimeError(f"sessions of {self.servers} were answered by {answers}")


def measure_full():
    """A box with an init, cron, dbus, nginx, PostgreSQL, redis and sshd, and with as many sessions of PostgreSQL as make it
    FULL processes: their number, the gap of redis's client, and what of that is CRIU's (ms)."""
    with Lab() as lab:
        fresh_box(lab, "full")
        lab.wait_for("client", *Sessions.ASK, "-c", "select 'OK'")
        with Sessions(lab, max(0, FULL - len(settled(lab)))), Client(lab, ADDRESS, 0) as client:
            processes = len(settled(lab))
            report, restore = move_and_ask_criu(lab)
        dump = next(phase["ms"] for phase in report["phases"] if phase["name"] == "dump")
        return {"processes": processes, "gap": client.gap_ms, "criu": dump + restore, "freeze": report["freeze_ms"],
                "predicted": report["predicted"]["freeze_ms"]}


def install_podman():
    """Only here: it is 20 packages, for one figure."""
    subprocess.run("command -v podman >/dev/null || { apt-get -qq update && DEBIAN_FRONTEND=noninteractive "
                   "apt-get -qq install -y --no-install-recommends podman; }",
                   shell=True, check=True, capture_output=True)


def measure_podman(megabytes):
    """Ms from the checkpoint to the first answer at the other node."""
    install_podman()
    with Lab() as lab:
        lab.give_templates()
        lab.exec("node1", "drover-node", "box", "create", "r", "--template", "redis", "--ip", f"{ADDRESS}/24")
        layers = json.loads(lab.exec("node1", "drover-node", "--json", "box", "show", "r"))["layers"]
        lab.exec("node1", HERE / "podman-sequence", "--start", "node2", *reversed(layers))
        with Client(lab, "10.77.0.1", megabytes):
            pass  # it fills; podman does not keep connections when it moves to another address
        return move(lab, "podman")["freeze_ms"]


def bars_of(found, podman):
    def of(name, key):
        return median(seen and seen[key] for seen in found[name])

    rows = []
    for size in (200, 1000):
        for what in ("freeze", "gap"):
            drover, plain = of(f"redis {size} MB, drover", what), of(f"redis {size} MB, plain", what)
            rows.append(figure(f"redis {size} MB: {what}, plain sequence", plain, "ms"))
            if (size, what) == (1000, "gap"):
                rows.append(bar(f"redis {size} MB: {what}, drover", drover, 150, "ms"))
                rows.append(bar(f"redis {size} MB: {what}, plain sequence / drover", ratio(plain, drover), 8, at_least=True))
            else:
                rows.append(figure(f"redis {size} MB: {what}, drover", drover, "ms"))
            rows.append(bar(f"redis {size} MB: {what}, drover / plain sequence", ratio(drover, plain), 1.0))
    gap = of("redis 1000 MB, drover", "gap")
    lazy = of("redis 1000 MB, lazy", "gap")
    full, criu = of("full box, drover", "gap"), of("full box, drover", "criu")
    failed = sum(seen is None for several in found.values() for seen in several) + (podman is None)
    rows += [
        figure("redis 1000 MB: gap, lazy pages by hand", lazy, "ms"),
        bar("redis 1000 MB: gap, lazy pages by hand / drover", ratio(lazy, gap), 2, at_least=True),
        figure("redis 1000 MB: podman checkpoint, copy, restore", podman, "ms"),
        bar("redis 1000 MB: podman / gap, drover", ratio(podman, gap), 50, at_least=True),
    ]
    for how in ("drover", "postcopy"):
        small, large = of(f"redis 128 MB, {how}", "gap"), of(f"redis 4000 MB, {how}", "gap")
        rows += [
            figure(f"redis 128 MB: gap, {how}", small, "ms"),
            figure(f"redis 4000 MB: gap, {how}", large, "ms"),
            bar(f"redis: gap with 4000 MB / with 128 MB, {how}", ratio(large, small), 1.5),
        ]
    return rows + [
        bar("redis 4000 MB: drover-node's own memory", of("redis 4000 MB, drover", "mib"), 64, "MiB"),
        figure("full box: processes", of("full box, drover", "processes"), "number"),
        figure("full box: gap, drover", full, "ms"),
        figure("full box: the dump, and what CRIU says of its restore", criu, "ms"),
        bar("full box: gap / the dump, and what CRIU says of its restore", ratio(full, criu), 1.3),
        *(bar(f"{what}: freeze / predicted", ratio(of(f"{what}, drover", "freeze"), of(f"{what}, drover", "predicted")), 1.0)
          for what in ("redis 128 MB", "redis 4000 MB", "full box")),
        bar("moves that failed", failed, 0, "moves"),
    ]


def run(runs):
    build_templates("debian-13", "redis", "full")
    found = {}

    def once(name, what, *arguments):
        found.setdefault(name, []).append(attempt(name, what, *arguments))

    for _ in range(runs):
        for size in (200, 1000):
            for how in ("drover", "plain"):
                once(f"redis {size} MB, {how}", measure, size, how)
        once("redis 1000 MB, lazy", measure, 1000, "lazy")
        for how in ("drover", "postcopy"):
            for size in (128, 4000):
                once(f"redis {size} MB, {how}", measure, size, how)
        once("full box, drover", measure_full)
    return bars_of(found, attempt("redis 1000 MB, podman", measure_podman, 1000))
