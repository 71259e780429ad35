"""Nothing fails and nothing goes on: whoever waits for it notices, says so, and ends what holds a frozen box."""

import contextlib
import json
import os
import re
import signal
import time

import pytest
from conftest import lines, until
from moves import Halted, check_filled, criu_has_dumped, criu_that_dumps, criu_that_restores, fill, has_ended, hung, settle
from rack import rack, shared  # noqa: F401: fixtures

pytestmark = [pytest.mark.leaves, pytest.mark.limit(240)]


def gives_up(move, rack):
    """The source does, after a minute; and the destination ends what hangs there."""
    start = time.monotonic()
    assert move.go_on() == 3, move.err
    assert 50 < time.monotonic() - start < 100
    assert json.loads(move.out)["outcome"] == "rolled_back"
    assert json.loads(move.err.splitlines()[-1])["error"] == \
        f"{move.destination} was silent while we waited for the restore of the box"
    rack.check(move.source)
    rack.box.migrate()  # as if nothing had happened
    rack.check(move.destination)


def freezing_is_given_up(move, rack, criu, go_on, error, least, most):
    start = time.monotonic()
    with hung(rack.lab, move.source, criu):
        go_on()
        assert move.go_on() == 3, move.err
    said = [json.loads(line) for line in move.err.splitlines()]
    assert said[-1]["error"] == error
    assert "CRIU did not end, and was killed: a process that it was at work in may have ended with it" in [
        line.get("warning") for line in said]
    assert least < time.monotonic() - start < most
    assert json.loads(move.out)["outcome"] == "rolled_back"
    rack.check(move.source)
    rack.box.migrate()  # as if nothing had happened
    rack.check(move.destination)


HANGS = "CRIU did not freeze the box into images: it has not run for 30 s"


def test_criu_hangs_before_it_dumps(lab, rack, tmp_path):
    move = Halted(rack.box, "source.frozen", tmp_path, "--mode", "stop", "--force")
    criu = criu_that_dumps(lab, move.source)
    freezing_is_given_up(move, rack, criu, lambda: None, HANGS, 30, 50)


@pytest.mark.parametrize("mode", ["stop", pytest.param("postcopy", marks=pytest.mark.exhaustive)])
def test_criu_hangs_after_its_dump(lab, rack, tmp_path, mode):
    """With its code in the box, which notices that CRIU has gone."""
    move, criu, go_on = criu_has_dumped(lab, rack, tmp_path, mode)
    freezing_is_given_up(move, rack, criu, go_on, HANGS, 30, 50)


@pytest.mark.parametrize("mode", ["stop", "postcopy"])
def test_interrupt_when_criu_hangs(lab, rack, tmp_path, mode):
    """It is given a few seconds."""
    move = Halted(rack.box, "source.frozen", tmp_path, "--mode", mode, "--force")
    criu = criu_that_dumps(lab, move.source)
    freezing_is_given_up(move, rack, criu, lambda: os.kill(move.pids["source"], signal.SIGINT), "interrupted", 3, 15)


@pytest.mark.parametrize("mode, delay_ms", [
    pytest.param(mode, delay_ms, marks=() if (delay_ms == 12) == (mode == "stop") and delay_ms in (12, 20) else pytest.mark.exhaustive)
    for mode in ("stop", "postcopy") for delay_ms in range(0, 40, 2)])
def test_criu_is_stopped_while_it_dumps(lab, rack, tmp_path, mode, delay_ms):
    """Anywhere. Half of these times it has its code in the box, and is the only one that can take it out: so it is woken up, and told
    to give up."""
    move = Halted(rack.box, "source.frozen", tmp_path, "--mode", mode, "--force")
    criu = criu_that_dumps(lab, move.source)
    before = lines(f"/proc/{criu}/schedstat")
    move.resume()
    until("CRIU works", lambda: lines(f"/proc/{criu}/schedstat") != before, pause=0)
    time.sleep(delay_ms / 1000)
    with contextlib.suppress(ProcessLookupError):
        os.kill(criu, signal.SIGSTOP)
    os.kill(move.pids["source"], signal.SIGINT)
    status = move.go_on()
    assert status in (0, 3), move.err
    rack.check(move.source if status else move.destination)


def test_criu_hangs_while_it_restores(rack, tmp_path):
    move = Halted(rack.box, "destination.network", tmp_path, "--mode", "stop", "--force")
    criu = criu_that_restores(move)
    os.kill(criu, signal.SIGSTOP)
    gives_up(move, rack)
    assert has_ended(criu)


def test_who_brings_the_memory_hangs_before_the_restore(rack, tmp_path):
    move = Halted(rack.box, "source.dumped", tmp_path, "--mode", "precopy", "--force")
    os.kill(move.pids["bringer"], signal.SIGSTOP)
    gives_up(move, rack)
    assert has_ended(move.pids["bringer"])


def test_who_brings_the_memory_hangs_after_it(lab, rack, tmp_path):
    """The box is at the destination, and waits wherever it needs memory. The operator is told; and goes on when it does."""
    fill(rack.client.other(), 16)
    lab.link(rack.box.other(), "slow", "20mbit")
    move = Halted(rack.box, "source.given", tmp_path, "--mode", "postcopy", "--force")
    os.kill(move.pids["bringer"], signal.SIGSTOP)
    move.resume()
    time.sleep(20)
    os.kill(move.pids["bringer"], signal.SIGCONT)
    assert move.go_on() == 0, move.err
    warnings = [line["warning"] for line in map(json.loads, move.err.splitlines()) if "warning" in line]
    assert len(warnings) == 1 and re.fullmatch(
        f"{move.destination} has taken no memory of box {rack.box.name} for 1[5-7] s: what in the box needs some of it waits", warnings[0])
    settle(lab, move, "at once")
    check_filled(rack.client.other(), 16)
    rack.check(move.destination)
