"""Nodes with idle processors: a box's memory gets more connections by itself where one thread is not enough to pack it."""

import os

import pytest
from guests import Guests
from moves import check_filled
from test_move_vm import make_box, only_in_memory  # noqa: F401: a fixture

pytestmark = [pytest.mark.slow, pytest.mark.limit(240)]

MEGABYTES = 128


@pytest.fixture(scope="module")
def guests():
    with Guests(f"vm-wide-{os.getpid()}", processors=4) as made:
        yield made


def test_more_connections_where_one_thread_is_not_enough(guests, make_box):  # noqa: F811
    box = make_box("wide", "redis", 30).answers(6379)
    redis = only_in_memory(guests, box, MEGABYTES)
    for mode in ("precopy", "postcopy"):
        report = box.migrate("--mode", mode)
        assert (report["outcome"], report["mode"]) == ("moved", mode)
        assert report["streams"] > 1, report
        check_filled(redis, MEGABYTES)
