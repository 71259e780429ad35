"""a redis box moves: freeze and gap against criu dump + rsync + criu restore"""
import json
import pathlib

from common import Client, Lab, bar, build_templates, figure, median

ADDRESS = "10.77.0.20"
PLAIN = pathlib.Path(__file__).with_name("plain-sequence")


def measure(megabytes, how):
    """(freeze, gap) in ms of one move of a fresh box."""
    with Lab() as lab:
        lab.give_templates()
        lab.exec("node1", "drover-node", "box", "create", "r", "--template", "redis", "--ip", f"{ADDRESS}/24")
        lab.exec("node1", "drover-node", "box", "start", "r")
        # Both carry the same memory; what lies on disk would only blur it.
        lab.wait_for("node1", "drover-node", "box", "exec", "r", "redis-cli", "config", "set", "appendonly", "no")
        with Client(lab, ADDRESS, megabytes) as client:
            if how == "drover":
                out = lab.exec("node1", "drover-node", "--json", "box", "migrate", "r", "--to", "node2")
            else:
                out = lab.exec("node1", PLAIN, "r", "node2")
        return json.loads(out)["freeze_ms"], client.gap_ms


def run(runs):
    build_templates("debian-13", "redis")
    bars = []
    for megabytes in (200, 1000):
        seen = {"drover": [], "plain": []}
        for _ in range(runs):
            for how, rows in seen.items():
                rows.append(measure(megabytes, how))
        for index, what in enumerate(("freeze", "gap")):
            middle = {how: median(row[index] for row in rows) for how, rows in seen.items()}
            bars += [figure(f"redis {megabytes} MB: {what}, {how}", ms, "ms") for how, ms in middle.items()]
            bars.append(bar(f"redis {megabytes} MB: {what}, drover / plain sequence", middle["drover"] / middle["plain"], 1.0))
    return bars
