"""A node's SSH key is good for what drover-node runs on other nodes, and for nothing else."""

import pytest
from conftest import until
from moves import Box


@pytest.fixture
def as_node(lab):
    """as_node(WORDS...) runs ssh on node1 with node1's own key alone; as_node.words are the words up to the node."""
    def run(*words, **options):
        return lab.exec("node1", *run.words, *words, check=False, **options)

    run.words = ("ssh", "-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-i", "/etc/ssh/key-node1", "-o", "BatchMode=yes",
                 "-o", "GlobalKnownHostsFile=/etc/ssh/known_hosts", "-o", "ExitOnForwardFailure=yes", "-o", "LogLevel=ERROR")
    return run


def test_opens_no_shell(as_node):
    result = as_node("node2", input="id\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "error: this key is for the drover-node of other nodes: it opens no shell\n"


@pytest.mark.parametrize("command", [
    "true", "id", "sh", "drover-node", "drover-node box list", "drover-node recover", "drover-node receive --forced",
    "drover-node receive --state-dir /tmp", "drover-node --json receive", "drover-node receive; id", "drover-node receive\nid",
    "drover-node  receive", " drover-node receive", "drover-node receive ", "env A=b drover-node receive", "/tmp/drover-node receive",
    "drover-node template list", "drover-node template receive x", "DROVER-NODE RECEIVE", "scp -t /tmp", "rsync --server . /"])
def test_runs_no_other_command(as_node, command):
    result = as_node("node2", command)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: this key is for the drover-node of other nodes: it does not run ")
    assert command.split()[0] in result.stderr


def test_has_no_subsystem(as_node):
    result = as_node("-s", "node2", "sftp", input="")
    assert (result.returncode, result.stdout) == (1, "")  # sshd passes no stderr on here


def test_has_no_terminal(as_node):
    result = as_node("-tt", "node2", "drover-node --version")
    assert "PTY allocation request failed" in result.stderr
    assert "\r" not in result.stdout


def test_forwards_nothing(lab, as_node):
    assert as_node("-W", "localhost:22", "node2").stdout == ""
    result = as_node("-N", "-R", "7777:localhost:22", "node2")
    assert result.returncode != 0 and "remote port forwarding failed" in result.stderr
    child = lab.popen("node1", *as_node.words, "-N", "-L", "7778:localhost:22", "node2")

    def connected():
        try:
            return lab.connect("node1", "127.0.0.1", 7778)
        except ConnectionRefusedError:
            return None

    tunnel = until("ssh listens", connected)
    assert tunnel.recv(100) == b""  # and not the other node's sshd
    tunnel.close()
    child.kill()


def test_says_its_version(lab, as_node):
    result = as_node("node2", "drover-node --version")
    assert (result.returncode, result.stdout) == (0, lab.exec("node2", "drover-node", "--version").stdout)


@pytest.mark.limit(120)
def test_moves_a_box(lab, templates, as_node):
    before = lab.inventory()
    box = Box(lab, "keyed", "shell", 45).start()
    try:
        box.migrate("--rsh", " ".join(as_node.words))
        # The other way it is drover-node's own choice, with the lab's configuration of ssh.
        log = lab.state / "node1.sshd.log"
        seen = len(log.read_text())
        box.migrate()
        accepted = [line for line in log.read_text()[seen:].splitlines() if "Accepted publickey" in line]
        mark = lab.exec("node2", "ssh-keygen", "-l", "-f", "/etc/ssh/key-node2.pub").stdout.split()[1]
        assert accepted and all(mark in line for line in accepted)
    finally:
        box.destroy()
    until("nothing is left", lambda: not lab.inventory() - before)
