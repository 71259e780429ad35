"""The other node cannot say any more whose a box is, or has forgotten it."""

import shutil

import pytest
from moves import DROVER, Box, Halted, nothing_remains


@pytest.fixture
def empty(lab, templates):
    return lab.inventory()


@pytest.fixture
def box(lab, empty):
    box = Box(lab, "settled", "shell", 50).start()
    box.exec("sh", "-c", "echo before >/root/word; sync")
    yield box
    lab.mend()
    for node in lab.nodes:
        for kind in ("arriving", "boxes"):
            if lab.node(node).path(f"{DROVER}/{kind}/settled").exists():
                lab.clean()
    for node in lab.nodes:
        for kind in ("destroyed", "given"):
            shutil.rmtree(lab.state / node / kind, ignore_errors=True)


def recover(lab, node, *words, check=0):
    result = lab.exec(node, "drover-node", "recover", *words, check=False, timeout=110)
    assert result.returncode == check, result
    return result.stdout.strip()


def frozen_copy(box, tmp_path):
    """The destination is killed when it is prepared: the box goes on at the source, and a copy waits."""
    move = Halted(box, "destination.prepared", tmp_path)
    move.kill("destination")
    assert move.go_on() == 3, move.err
    assert box.states() == {"node1": "running", "node2": "arriving"}
    return move


def forget(lab, box, node):
    """This node gets a new disk."""
    lab.off(node)
    for kind in ("boxes", "arriving", "given", "destroyed"):
        shutil.rmtree(lab.state / node / kind, ignore_errors=True)
    lab.on(node)


@pytest.mark.leaves
@pytest.mark.limit(120)
@pytest.mark.parametrize("again", [False, True], ids=["gone", "another of that name"])
def test_kept_and_then_destroyed(lab, box, empty, tmp_path, again):
    frozen_copy(box, tmp_path)
    lab.exec("node1", "drover-node", "box", "destroy", "--force", box.name)
    if again:
        lab.exec("node1", "drover-node", "box", "create", box.name, "--template", "shell", "--ip", "10.77.0.51/24")
    assert recover(lab, "node2") == f"box {box.name} stays on node1: what had come of it here was removed"
    nothing_remains(lab, box, "node2", empty)
    assert box.states() == ({"node1": "stopped"} if again else {})
    if again:
        lab.exec("node1", "drover-node", "box", "destroy", box.name)


@pytest.mark.leaves
@pytest.mark.limit(180)
@pytest.mark.parametrize("word", ["--take", "--drop"])
def test_source_knows_nothing(lab, box, empty, tmp_path, word):
    frozen_copy(box, tmp_path)
    forget(lab, box, "node1")
    said = recover(lab, "node2", check=4)
    assert said.startswith(f"box {box.name} is here frozen, and node1 knows nothing of it")
    assert f"--take {box.name}" in said and f"--drop {box.name}" in said
    assert box.states() == {"node2": "arriving"}
    said = recover(lab, "node2", word, box.name)
    if word == "--take":
        assert said == f"box {box.name} runs here: it was taken without the word of node1"
        assert box.states() == {"node2": "running"}
        assert box.show()["epoch"] == 2
        assert box.exec("cat", "/root/word").stdout == "before\n"
        box.destroy()
    else:
        assert said == f"box {box.name} was dropped without the word of node1"
    assert recover(lab, "node2") == ""
    nothing_remains(lab, box, "node2", empty)


@pytest.mark.leaves
@pytest.mark.limit(180)
def test_source_is_silent_and_comes_back(lab, box, empty, tmp_path):
    move = Halted(box, "destination.prepared", tmp_path)
    move.kill("source")
    move.kill("destination")
    lab.off("node1")
    assert "does not say whose it is" in recover(lab, "node2", check=4)
    assert "taken without the word" in recover(lab, "node2", "--take", box.name)
    lab.on("node1")
    # It had not given the box away, and says so; now there are two, and a person is told.
    assert "node2 has taken it without this node's word: destroy one of the two" in recover(lab, "node1", check=4)
    assert box.states() == {"node1": "stopped", "node2": "running"}
    lab.exec("node1", "drover-node", "box", "destroy", box.name)
    assert box.exec("cat", "/root/word").stdout == "before\n"
    box.destroy()


@pytest.mark.leaves
@pytest.mark.limit(120)
@pytest.mark.parametrize("word", ["--take", "--drop"])
def test_the_sources_word_counts_more(lab, box, empty, tmp_path, word):
    frozen_copy(box, tmp_path)
    assert recover(lab, "node2", word, box.name) == \
        f"box {box.name} stays on node1: what had come of it here was removed"
    assert box.states() == {"node1": "running"}
    box.destroy()


@pytest.mark.leaves
@pytest.mark.limit(120)
def test_a_given_box_is_not_dropped(lab, box, empty, tmp_path):
    move = Halted(box, "source.given", tmp_path)
    move.kill("destination")
    move.kill("source")
    assert recover(lab, "node2", "--drop", box.name) == f"box {box.name} runs here since its move from node1"
    assert recover(lab, "node1", "--take", box.name) == f"box {box.name} runs on node2 since its move"
    assert box.states() == {"node2": "running"}
    box.destroy()


@pytest.mark.leaves
@pytest.mark.limit(180)
@pytest.mark.parametrize("mode", ["stop", "postcopy"])
@pytest.mark.parametrize("word", ["--take", "--drop"])
def test_destination_knows_nothing(lab, box, empty, tmp_path, word, mode):
    move = Halted(box, "source.given", tmp_path, "--mode", mode)
    forget(lab, box, "node2")  # first: its bringer of memory would ask again
    move.kill("source")
    said = recover(lab, "node1", check=4)
    assert said.startswith(f"box {box.name} was given to node2, which knows nothing of it")
    said = recover(lab, "node1", word, box.name)
    if word == "--take":
        assert said == f"box {box.name} is this node's again, as it was when it left, and stopped"
        assert box.states() == {"node1": "stopped"}
        lab.exec("node1", "drover-node", "box", "start", box.name)
        assert box.show()["epoch"] == 3
        assert box.exec("cat", "/root/word").stdout == "before\n"
        box.migrate()
        box.destroy()
    assert recover(lab, "node1") == ""
    nothing_remains(lab, box, "node1", empty)


@pytest.mark.leaves
def test_no_such_move(lab, box):
    for word in ("--take", "--drop"):
        result = lab.exec("node1", "drover-node", "recover", word, box.name, check=False)
        assert (result.returncode, result.stderr.splitlines()[0]) == (
            1, f"error: no move of a box {box.name} is unfinished on this node")
    result = lab.exec("node1", "drover-node", "recover", "--take", box.name, "--drop", box.name, check=False)
    assert result.returncode == 2
    assert box.states() == {"node1": "running"}
    box.destroy()


def test_what_a_killed_removal_left(lab, box):
    """Its directory has no name any more that `list` could show."""
    left = lab.node("node1").path(f"{DROVER}/boxes/.gone-0123456789abcdef")
    (left / "private/upper").mkdir(parents=True)
    recover(lab, "node1")
    assert not left.exists()
