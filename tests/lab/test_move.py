"""A box moves between two nodes while it is in use, and nobody notices."""

import pytest
from moves import Box, Counter, increments_on_disk, remains

REPORT = ["box", "from", "to", "mode", "outcome", "epoch", "freeze_ms", "total_ms", "wire_bytes", "phases"]


@pytest.fixture
def make_box(lab, templates, before):
    """make_box(NAME, TEMPLATE, NUMBER) starts a box on node1; it is gone after the test."""
    made = []

    def make(name, template, number, node="node1"):
        box = Box(lab, name, template, number)
        made.append(box)
        return box.start(node)

    yield make
    lab.mend()
    for box in made:
        box.destroy()


@pytest.fixture
def before(lab):
    """All that there is in the lab before the test's boxes."""
    return lab.inventory()


@pytest.mark.limit(120)
def test_redis_client_sees_no_error(lab, make_box, before):
    box = make_box("counted", "redis", 20).answers(6379)
    old = box.show()
    with_v4, with_v6 = Counter(lab, box.ip4), Counter(lab, box.ip6, "count6")
    report = box.migrate()
    with_v4.check()
    with_v6.check()
    assert not remains(lab, box, "node1", before)

    assert list(report) == REPORT
    assert [report[key] for key in REPORT[:6]] == ["counted", "node1", "node2", "stop", "moved", old["epoch"] + 1]
    assert 0 < report["freeze_ms"] < report["total_ms"]
    assert report["wire_bytes"] > 0
    assert all(list(phase) == ["name", "ms", "bytes"] for phase in report["phases"])
    new = box.show()
    for key in ("name", "template", "addresses", "mac", "gateways", "layers", "id_base"):
        assert new[key] == old[key], key
    assert new["epoch"] == old["epoch"] + 1

    acknowledged = with_v4.finish() + with_v6.finish()
    assert increments_on_disk(box) >= acknowledged


@pytest.mark.limit(240)
def test_ten_times_back_and_forth(lab, make_box, before):
    box = make_box("shuttle", "redis", 21).answers(6379)
    client = Counter(lab, box.ip4)
    for turn in range(10):
        report = box.migrate()
        assert report["epoch"] == box.show()["epoch"] == turn + 2
        client.check()
        assert not remains(lab, box, box.other(), before)
    acknowledged = client.finish()
    assert increments_on_disk(box) >= acknowledged
