"""Building templates for real, what is in them, and boxes of them."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from boxes import Boxes
from conftest import ROOT, checked

DEFINITIONS = ROOT / "templates/definitions"
LONG = pytest.mark.limit(600)


class Builder:
    """`drover template` with a state directory of its own; the package cache is the machine's."""

    def __init__(self, state, run):
        self.state, self.run_dir = state, run

    def argv(self, *words):
        return ["drover", "--json", "--state-dir", self.state, "--run-dir", self.run_dir, "template", *words]

    def run(self, *words, check=True, **options):
        result = subprocess.run(self.argv(*words), text=True, capture_output=True, stdin=subprocess.DEVNULL,
                                timeout=580, **options)
        return checked(result) if check else result

    def build(self, definition, *words):
        return json.loads(self.run("build", definition, *words).stdout)

    def fails(self, *words):
        """The error of a command that must fail and change nothing."""
        before = self.contents()
        result = self.run(*words, check=False)
        assert result.returncode == 1, result
        assert self.contents() == before
        return json.loads(result.stderr.splitlines()[-1])

    def contents(self):
        return sorted(str(path) for part in ("layers/sha256", "templates") for path in (self.state / part).rglob("*")
                      if path.name != ".lock")

    def manifest(self, reference):
        return json.loads(self.run("show", reference).stdout)

    def layer(self, digest):
        return self.state / "layers/sha256" / f"{digest.removeprefix('sha256:')}.erofs"


@pytest.fixture
def builder(tmp_path):
    return Builder(tmp_path / "state", tmp_path / "run")


@pytest.fixture
def with_base(builder, templates):
    """A builder that has debian-13."""
    builder.state.mkdir()
    checked(subprocess.run(["cp", "-a", *(templates / part for part in ("layers", "templates", "keys")),
                            builder.state], text=True, capture_output=True, timeout=60))
    return builder


@pytest.fixture
def define(tmp_path):
    def write(text, name="t"):
        path = tmp_path / f"{name}.toml"
        path.write_text(f'name = "{name}"\n{text}')
        return path
    return write


@pytest.fixture
def mounted(tmp_path):
    """Mounts a layer's image, read-only."""
    made = []

    def mount(image):
        at = tmp_path / f"mounted{len(made)}"
        at.mkdir()
        checked(subprocess.run(["mount", "-t", "erofs", "-o", "ro", image, at], text=True, capture_output=True,
                               timeout=60))
        made.append(at)
        return at
    yield mount
    for at in made:
        subprocess.run(["umount", at], check=True, timeout=60)


def traces(builder):
    """What a build could leave: processes, loop devices, mounts."""
    ours = [f"/proc/{pid}" for pid in os.listdir("/proc") if pid.isdigit() and str(builder.run_dir).encode()
            in read(f"/proc/{pid}/cmdline")]
    mounts = [line for line in read("/proc/self/mounts").decode().splitlines() if str(builder.run_dir) in line]
    loops = [path for path in Path("/sys/block").glob("loop*/loop/backing_file") if str(builder.state).encode()
             in read(path)]
    return ours + mounts + loops


def read(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


# The same again


@LONG
def test_a_definition_gives_the_same_layer_each_time(builder):
    first = builder.build(DEFINITIONS / "shell.toml")
    assert not first["unchanged"] and re.fullmatch(r"shell@\d{10}", first["template"])
    assert builder.build(DEFINITIONS / "shell.toml", "--offline") == {**first, "unchanged": True}
    # Built again, and in another file system, whose directories have another order.
    for how in ([], ["--on-disk"]):
        again = builder.build(DEFINITIONS / "shell.toml", "--offline", "--rebuild", *how)
        assert again == {**first, "unchanged": True}


@LONG
@pytest.mark.slow
def test_every_shipped_template_gives_the_same_layer_each_time(builder):
    """Base and applications; each build is another process at another time, the second one on another file system."""
    for name in ("debian-13", "redis", "web", "db", "full"):
        first = builder.build(DEFINITIONS / f"{name}.toml")
        again = builder.build(DEFINITIONS / f"{name}.toml", "--offline", "--rebuild", "--on-disk")
        assert again == {**first, "unchanged": True}
    assert json.loads(builder.run("verify").stdout) == [
        {"template": entry["template"], "good": True, "problem": ""} for entry in json.loads(builder.run("list").stdout)]


@LONG
def test_another_definition_is_another_version(builder, define):
    text = (DEFINITIONS / "shell.toml").read_text().replace('name = "shell"', "").replace("files/hosts",
                                                                                         str(DEFINITIONS / "files/hosts"))
    first = builder.build(define(text, "small"))
    assert builder.build(define("# only a comment\n" + text, "small"), "--offline")["unchanged"]
    more = builder.build(define(text + '[[file]]\npath = "/etc/motd"\ncontent = "hi"\n', "small"), "--offline")
    assert int(more["template"][-10:]) == int(first["template"][-10:]) + 1
    start = builder.build(define(text.replace("stop_seconds = 3", "stop_seconds = 4"), "small"), "--offline")
    assert start["layer"] == first["layer"] and start["template"] > more["template"], "another start, the same files"
    newest, oldest = start["template"], first["template"]
    assert builder.manifest("small")["version"] == newest[-10:]
    assert json.loads(builder.run("gc", "--keep", "1").stdout)["templates"] == [oldest, more["template"]]
    assert builder.manifest("small")["version"] == newest[-10:]
    assert json.loads(builder.run("verify").stdout) == [{"template": newest, "good": True, "problem": ""}]


# What is in a layer


@LONG
def test_an_application_template_is_only_what_it_changes(with_base, define, mounted):
    made = with_base.build(define('''
base = "debian-13"
packages = ["tini"]
commands = [
  "rm /etc/issue; rm -r /etc/cron.d; mkdir /etc/cron.d; echo x >/etc/cron.d/x",
  "touch /etc/hosts; chmod 644 /etc/hosts; cat /etc/hosts >/etc/h; cat /etc/h >/etc/hosts; rm /etc/h",
  "chmod 600 /etc/host.conf",
]
[[file]]
path = "/srv/hello"
content = "hello\\n"
owner = "www-data:adm"
mode = "0640"
'''))
    top = mounted(with_base.layer(made["layer"]["digest"]))
    found = {str(path.relative_to(top)) for path in top.rglob("*")}
    assert {"usr/bin/tini", "srv/hello", "etc/host.conf", "var/lib/dpkg/status"} <= found
    assert "etc/hosts" not in found, "touched, but not changed"
    assert "bin" not in found and "usr/bin/bash" not in found, "the base's"
    gone = (top / "etc/issue").lstat()
    assert (gone.st_mode, gone.st_rdev) == (0o020000, 0), "a whiteout"
    assert os.getxattr(top / "etc/cron.d", "trusted.overlay.opaque") == b"y", "nothing of the base's shows through"
    noted = {name for path in [top, *top.rglob("*")] for name in os.listxattr(path, follow_symlinks=False)
             if name.startswith("trusted.overlay.")}
    assert noted == {"trusted.overlay.opaque"}, "overlayfs's own notes are this machine's"
    hello = (top / "srv/hello").stat()
    assert (hello.st_uid, hello.st_gid, hello.st_mode & 0o7777) == (33, 4, 0o640)
    manifest = with_base.manifest("t")
    assert manifest["layers"][:-1] == with_base.manifest("debian-13")["layers"]
    assert {"tini", "bash"} <= {package["name"] for package in manifest["packages"]}
    assert manifest["box"] == with_base.manifest("debian-13")["box"], "what the definition does not name"


def test_layers_say_nothing_of_their_builder_and_share_no_secrets(templates, mounted):
    """Also of templates that install ssh and ssl-cert, which make keys."""
    store = Builder(templates, templates)
    uris = subprocess.run(["apt-get", "update", "--print-uris"], text=True, capture_output=True, timeout=60).stdout
    # Its sources; the default mirror of Debian's own tools stands in apt itself.
    sources = {uri.split("/dists/")[0].encode() for uri in re.findall("'([^']*)'", uris)}
    assert sources
    hostname = os.uname().nodename.encode()
    for name in ("debian-13", "full"):
        layer = mounted(store.layer(store.manifest(name)["layers"][-1]["digest"]))
        for gone in ("etc/machine-id", "var/lib/dbus/machine-id", "etc/ssl/private/ssl-cert-snakeoil.key",
                     "etc/hostname", "etc/resolv.conf", "etc/apt/sources.list", "usr/sbin/policy-rc.d"):
            assert not os.path.lexists(layer / gone), gone
        for empty in ("var/log", "var/lib/apt/lists", "var/cache/apt", "tmp", "run", "dev"):
            assert [path for path in (layer / empty).rglob("*") if not path.is_dir()] == [], empty
        assert list((layer / "etc/ssh").glob("ssh_host_*")) == []
        for path in [*(layer / "etc").rglob("*"), *(layer / "var").rglob("*")]:
            if path.is_file() and not path.is_symlink():
                text = path.read_bytes()
                assert not any(source in text for source in sources), path
                assert hostname not in text.split(), path


# What can go wrong


@LONG
def test_errors_name_the_line_and_change_nothing(with_base, define):
    head = 'base = "debian-13"\n'
    cases = [
        ('base = "debian-99"', "t.toml:2: base: there is no template debian-99 here", "build it first"),
        (head + 'pakages = ["x"]', "t.toml:3: unknown key pakages", "did you mean packages?"),
        (head + 'packages = ["redis-sever"]', "t.toml:3: packages: Debian trixie has no package redis-sever",
         "did you mean redis-server?"),
        (head + 'packages = ["systemd-sysv"]', "t.toml:3: packages: systemd-sysv : Conflicts: sysvinit-core", ""),
        (head + 'packages = ["inetutils-syslogd"]', "would remove rsyslog of its base", ""),
        ('base = "shell"\npackages = ["tini"]', "t.toml:3: packages: shell has no dpkg", "choose another base"),
        (head + 'commands = ["true", "echo out; ls /nowhere"]', "`echo out; ls /nowhere` ended with status 2\n"
         "    ls: cannot access '/nowhere'", "without a network"),
        (head + 'commands = ["ping -c1 -W1 1.1.1.1"]', "Network is unreachable", "without a network"),
        (head + 'commands = ["touch /srv/x; chown 70000 /srv/x"]', "/srv/x belongs to 70000:0", "commands"),
        (head + '[[file]]\npath = "/x"\ncontent = ""\nowner = "redis"', "t.toml:3: file /x: the tree has no redis",
         "a number"),
    ]
    for text, says, hint in cases:
        error = with_base.fails("build", define(text), "--offline")
        assert says in error["error"] and hint in error.get("hint", ""), error
    assert traces(with_base) == []


def test_without_a_mirror(with_base, define):
    nowhere = define('base = "debian-13"\n[mirror]\nurl = "http://127.0.0.1:9/debian"')
    error = with_base.fails("build", nowhere)
    assert "cannot be fetched: Failed to fetch http://127.0.0.1:9/" in error["error"], error
    assert "--offline" in error["hint"]
    assert "no package lists of Debian trixie here yet" in with_base.fails("build", nowhere, "--offline")["error"]


@LONG
def test_without_space(builder, define, tmp_path):
    builder.state.mkdir()
    (tmp_path / "cache").mkdir()
    for at, size in ((builder.state, "1m"), (tmp_path / "cache", "10m")):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", at], check=True, timeout=60)
    try:
        error = builder.fails("build", DEFINITIONS / "shell.toml")
        assert f"no space left in {builder.state}" in error["error"] and "gc --keep 1" in error["hint"]
        error = builder.fails("build", DEFINITIONS / "shell.toml", "--cache-dir", tmp_path / "cache")
        assert error["error"] == f"no space left to build shell in {tmp_path}/cache"
    finally:
        for at in (builder.state, tmp_path / "cache"):
            subprocess.run(["umount", at], check=True, timeout=60)


@LONG
@pytest.mark.parametrize("how", ["in memory", pytest.param("on disk", marks=pytest.mark.slow)])
@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM"])
def test_a_build_that_is_cut_off_leaves_nothing(with_base, define, wait_until, how, signal_name):
    """At several moments of each phase: the version that was there is there, and no other."""
    first = with_base.build(define('base = "debian-13"\npackages = ["tini"]\n'))
    definition = define('base = "debian-13"\npackages = ["tini"]\ncommands = ["true", "sleep 0.2", "true"]\n')
    words = ["build", definition, "--offline", *(["--on-disk"] if how == "on disk" else [])]
    before = with_base.contents()
    for step in range(14):
        process = subprocess.Popen(with_base.argv(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.1 + 0.15 * step)
        process.send_signal(getattr(signal, signal_name))
        process.wait(timeout=60)
        if process.returncode == 0:
            break  # done before
        assert process.returncode == (-9 if signal_name == "SIGKILL" else 130)
        wait_until("the build's processes and mounts end", lambda: not traces(with_base))
        if with_base.manifest("t")["version"] != first["template"][-10:]:
            break  # done before, but for its last words
        freed = json.loads(with_base.run("gc").stdout)
        assert with_base.contents() == before and list((with_base.state / "layers/scratch").glob("*")) == []
        assert freed["half_files"] in ((0, 1, 2) if signal_name == "SIGKILL" else (0,)), freed
    assert step > 2, "the build was too fast for this test"
    assert int(with_base.build(*words[1:2], "--offline")["template"][-10:]) == int(first["template"][-10:]) + 1
    assert all(entry["good"] for entry in json.loads(with_base.run("verify").stdout))


def test_two_builds_at_a_time(with_base, define):
    definition = define('base = "debian-13"\npackages = ["tini"]\n')
    running = [subprocess.Popen(with_base.argv("build", definition, "--offline"), text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL) for _ in range(2)]
    results = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert results[0]["template"] == results[1]["template"]
    assert sorted(result["unchanged"] for result in results) == [False, True]


# From node to node


def test_copy_brings_what_is_missing(lab, templates, tmp_path):
    with_lab = Builder(templates, templates)
    version = with_lab.manifest("redis")
    reference = f"redis@{version['version']}"
    node2 = lab.node("node2")
    store = node2.path("/var/lib/drover")
    layer = store / "layers/sha256" / f"{version['layers'][-1]['digest'][7:]}.erofs"
    whole = layer.read_bytes()

    def copy(check=True):
        return lab.exec("client", "drover", "--json", "--state-dir", templates, "template", "copy", "redis", "--to",
                        "node2", check=check)

    assert json.loads(copy().stdout) == {"template": reference, "node": "node2", "bytes": 0}
    layer.unlink()
    (store / f"templates/redis/{version['version']}.json").unlink()
    assert json.loads(copy().stdout)["bytes"] == version["layers"][-1]["bytes"]
    assert layer.read_bytes() == whole and layer.stat().st_mode & 0o777 == 0o444
    assert json.loads(node2.exec("drover-node", "--json", "template", "verify", "redis").stdout)[0]["good"]

    # Who is not trusted brings nothing.
    keys = {path: path.read_bytes() for path in (store / "keys").glob("*.pub")}
    for path in keys:
        path.unlink()
    try:
        refused = copy(check=False)
        assert refused.returncode == 1
        error = json.loads(refused.stderr.splitlines()[-1])
        assert "refused: the template that arrives is not signed by a key that is trusted here" in error["error"]
        assert "keys/local.pub" in error["error"]
    finally:
        for path, text in keys.items():
            path.write_bytes(text)


def test_copy_to_nowhere(lab, templates):
    result = lab.exec("client", "drover", "--state-dir", templates, "template", "copy", "shell", "--to", "node77",
                      check=False)
    assert result.returncode == 1
    assert "cannot copy shell@" in result.stderr and "node77" in result.stderr, result.stderr
    assert "hint: `ssh node77 drover-node --version` has to work without a question" in result.stderr


def test_a_damaged_layer_is_named(with_base):
    digest = with_base.manifest("shell")["layers"][0]["digest"]
    image = with_base.layer(digest)
    text = bytearray(image.read_bytes())
    text[len(text) // 2] ^= 1
    image.chmod(0o644)
    image.write_bytes(text)
    result = with_base.run("verify", check=False)
    assert result.returncode == 1
    bad = [entry for entry in json.loads(result.stdout) if not entry["good"]]
    names = [entry["template"].split("@")[0] for entry in json.loads(result.stdout)]
    on_it = [name for name in names if digest in str(with_base.manifest(name)["layers"])]
    assert "shell" in on_it and "debian-13" not in on_it
    assert [entry["template"].split("@")[0] for entry in bad] == on_it
    assert bad[0]["problem"].startswith(f"layer {digest} is damaged: its bytes are those of sha256:")


# Boxes of them


@pytest.fixture
def boxes(lab, templates):
    with Boxes(lab) as made:
        yield made


def reaches(lab, *argv):
    return lab.exec("client", *argv, check=False).stdout


@pytest.mark.parametrize("template", ["shell", "debian-13", "redis", "web", "db", "full"])
def test_a_shell_is_found_in_each(boxes, template):
    boxes.start("web1", template)
    assert boxes.sh("web1", "id -u; test -s /etc/hosts && echo ok").split() == ["0", "ok"]


def test_redis_answers_and_forgets_nothing(boxes, lab, wait_until):
    ip = boxes.start("web1", "redis")["addresses"][0].split("/")[0]
    wait_until("redis answers", lambda: reaches(lab, "redis-cli", "-h", ip, "set", "a", "1") == "OK\n")
    assert boxes.sh("web1", "cat /proc/1/comm; stat -c %U /proc/$(pidof redis-server)").split() == ["tini", "redis"]
    boxes.drover("box", "stop", "web1")
    boxes.drover("box", "start", "web1")
    wait_until("redis answers", lambda: reaches(lab, "redis-cli", "-h", ip, "get", "a") == "1\n")


def test_web_answers_on_both_families(boxes, lab, wait_until):
    made = boxes.start("web1", "web")
    for address in made["addresses"]:
        ip = address.split("/")[0]
        url = f"http://[{ip}]/" if ":" in ip else f"http://{ip}/"
        wait_until("nginx answers", lambda: "This is a box." in reaches(lab, "curl", "-s", "-g", url))


@pytest.mark.parametrize("template", ["db", "full"])
def test_each_box_has_a_database_of_its_own(boxes, lab, wait_until, template):
    psql = ["psql", "-U", "postgres", "-w", "-Atc"]
    identifiers = []
    for name in ("web1", "web2"):
        ip = boxes.start(name, template)["addresses"][0].split("/")[0]
        query = "select system_identifier from pg_control_system()"
        wait_until("PostgreSQL answers", lambda: reaches(lab, *psql, query, "-h", ip).strip(), timeout=30)
        identifiers.append(reaches(lab, *psql, query, "-h", ip))
    assert identifiers[0] != identifiers[1]
    assert reaches(lab, *psql, "create table t (a int); insert into t values (7)", "-h", ip) == "CREATE TABLE\nINSERT 0 1\n"
    assert "killed" not in boxes.drover("box", "stop", "web2").stderr
    boxes.drover("box", "start", "web2")
    wait_until("PostgreSQL answers", lambda: reaches(lab, *psql, "select a from t", "-h", ip) == "7\n", timeout=30)


def test_a_first_start_that_is_cut_off_makes_the_database_again(boxes, lab, wait_until):
    ip = boxes.create("web1", "db")["addresses"][0].split("/")[0]
    data = boxes.upper("web1") / "var/lib/postgresql/17"
    boxes.drover("box", "start", "web1")
    wait_until("initdb has begun", lambda: (data / "main.new").exists() or (data / "main").exists())
    init = boxes.show("web1")["pid"]
    os.kill(init, signal.SIGKILL)
    wait_until("the box has ended", lambda: boxes.state("web1") != "running")
    boxes.drover("box", "start", "web1", check=False)
    wait_until("PostgreSQL answers",
               lambda: reaches(lab, "psql", "-U", "postgres", "-wAtc", "select 1", "-h", ip) == "1\n", timeout=30)


def test_full_runs_everything(boxes, lab, wait_until):
    made = boxes.start("web1", "full")
    ip = made["addresses"][0].split("/")[0]
    wait_until("redis answers", lambda: reaches(lab, "redis-cli", "-h", ip, "ping") == "PONG\n", timeout=30)
    wait_until("nginx answers", lambda: "HTTP" in reaches(lab, "curl", "-sI", f"http://{ip}/"), timeout=30)
    running = "cat /proc/[0-9]*/comm | sort -u"
    wanted = {"cron", "dbus-daemon", "init", "nginx", "postgres", "redis-server", "rsyslogd", "sshd"}
    wait_until("all services run", lambda: wanted <= set(boxes.sh("web1", running).split()), timeout=30)
    assert "no route" not in reaches(lab, "ssh-keyscan", "-t", "ed25519", ip)
    keys = [boxes.sh("web1", "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id")]
    boxes.start("web2", "full")
    wait_until("sshd runs", lambda: "sshd" in boxes.sh("web2", running), timeout=30)
    keys.append(boxes.sh("web2", "cat /etc/ssh/ssh_host_ed25519_key.pub /etc/machine-id"))
    assert not set(keys[0].split()[1::2]) & set(keys[1].split()[1::2]), "what no two boxes may share"
    assert "killed" not in boxes.drover("box", "stop", "web1").stderr
