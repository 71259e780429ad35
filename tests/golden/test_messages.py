"""What drover and drover-node say: their help, and the answer to what they cannot do. Each file in this folder is a
transcript. ACCEPT=1 writes them anew; read the difference then as a user would."""

import json
import os
import re
import shlex
import struct
import subprocess
from pathlib import Path

import pytest

from boxes import Boxes

HERE = Path(__file__).parent
PROTOCOL = int(re.search(r"kProtocol = (\d+)", (HERE.parents[1] / "migrate/preflight.h").read_text())[1])

HELP = ["drover --help", "drover image --help", "drover-node --help", "drover-node box --help", "drover-node template --help",
        "drover template --help"]

USAGE = """
drover
drover frobnicate
drover --frobnicate
drover template
drover template frobnicate
drover template build
drover template build --frobnicate x.toml
drover template build no-such-file.toml
drover image
drover image verify
drover image verify no-such-directory
drover image delta old new
drover image delta old new -o x --node-memory much
drover image apply no-such-file --old old -o new
drover-node
drover-node frobnicate
drover-node box
drover-node box frobnicate
drover-node box create
drover-node box create web1
drover-node box create web1 --template shell
drover-node box create web1 --template
drover-node box create web1 --template shell --ip 10.77.0.20 --frobnicate
drover-node box start
drover-node box start web1 web2
drover-node box stop web1 --timeout
drover-node box stop web1 --timeout soon
drover-node box stop web1 --timeout -1
drover-node box log web1 --lines few
drover-node box exec
drover-node box exec web1
drover-node box exec web1 --
drover-node box show
drover-node box destroy
drover-node box migrate web1
drover-node box migrate web1 --to node2 --mode lazy
drover-node box migrate web1 --to node2 --max-downtime
drover-node box migrate web1 --to node2 --max-downtime soon
drover-node box migrate web1 --to node2 --max-downtime 0
drover-node box migrate web1 --to node2 --max-downtime -5
drover-node box migrate web1 --to node2 --max-downtime 1.5
drover-node box migrate web1 --to node2 --max-downtime 600001
drover-node box migrate web1 --to node2 --force now
drover-node --json box migrate web1 --to node2 --max-downtime 0
drover-node box checkpoint web1
drover-node box checkpoint web1 a.ckpt b.ckpt
drover-node box restore
drover-node box restore a.ckpt --force now
drover-node --json box start
drover-node --json box create web1 --template
drover-node box stop web1 --json --timeout
drover-node --json box frobnicate
"""

BOXES = """
drover-node box list
drover-node --json box list
drover-node box start web1
drover-node box stop web1
drover-node box show web1
drover-node box log web1
drover-node box exec web1 true
drover-node box destroy web1
drover-node box checkpoint web1 /tmp/web1.ckpt
drover-node box restore /etc/passwd
drover-node box restore /no/such/file
drover-node box restore /tmp
drover-node box restore ""
drover-node --json box destroy web1
drover-node box create web1 --template redsi --ip 10.77.0.20/24
drover-node box create web1 --template shell@2001010101 --ip 10.77.0.20/24
drover-node box create web1 --template /etc/passwd --ip 10.77.0.20/24
drover-node box create web1 --template "" --ip 10.77.0.20/24
drover-node box create Web1 --template shell --ip 10.77.0.20/24
drover-node box create -web --template shell --ip 10.77.0.20/24
drover-node box create ../web1 --template shell --ip 10.77.0.20/24
drover-node box start ../web1
drover-node box create "" --template shell --ip 10.77.0.20/24
drover-node box create web1 --template shell --ip 10.77.0.300
drover-node box create web1 --template shell --ip 10.77.0.20/33
drover-node box create web1 --template shell --ip 10.77.0.20/
drover-node box create web1 --template shell --ip web1
drover-node box create web1 --template shell --ip 224.0.0.1/24
drover-node box create web1 --template shell --ip ff02::1/64
drover-node box create web1 --template shell --ip 127.0.0.1/8
drover-node box create web1 --template shell --ip ::1/64
drover-node box create web1 --template shell --ip 10.77.0.0/24
drover-node box create web1 --template shell --ip 10.77.0.255/24
drover-node box create web1 --template shell --ip 10.77.0.255
drover-node box create web1 --template shell --ip ::ffff:10.77.0.20/120
drover-node box create web1 --template shell --ip 192.0.2.20
drover-node box create web1 --template shell --ip 2001:db8::20
drover-node box create web1 --template shell --ip 10.77.0.20/24 --ip 10.77.0.20/24
drover-node box create web1 --template shell --ip 10.77.0.250/24
drover-node box create web1 --template shell --ip fd77::250/64
drover-node box create web1 --template shell --ip 10.77.0.1/24
drover-node box create web1 --template shell --ip 10.77.0.20/24 --mac 02:00
drover-node box create web1 --template shell --ip 10.77.0.20/24 --mac 01:00:5e:00:00:01
drover-node box create web1 --template shell --ip 10.77.0.20/24 --mac ff:ff:ff:ff:ff:ff
drover-node box create web1 --template shell --ip 10.77.0.20/24 --gateway 192.0.2.1
drover-node box create web1 --template shell --ip 10.77.0.20/24 --gateway nobody
drover-node box create web1 --template shell --ip 10.77.0.20/24 --gateway fd77::1
drover-node box create web1 --template shell --ip 10.77.0.20/24 --gateway 10.77.0.20
drover-node box create web1 --template shell --ip 10.77.0.20/24 --gateway 10.77.0.250 --gateway 10.77.0.249
drover-node box create web1 --template shell --ip 10.77.0.20/24 --bridge br7
drover-node box create web1 --template shell --ip 10.77.0.20/24 --bridge uplink
drover-node box list
drover-node box create web1 --template shell --ip 10.77.0.20/24 --ip fd77::1:20/64 --mac 02:00:00:00:00:20
drover-node box create web1 --template shell --ip 10.77.0.21/24
drover-node box create web2 --template shell --ip 10.77.0.20/24
drover-node box create web2 --template shell --ip fd77::1:20/64
drover-node box create web2 --template shell --ip 10.77.0.21/24 --mac 02:00:00:00:00:20
drover-node box exec web1 true
drover-node box log web1
drover-node box stop web1
drover-node box checkpoint web1 /tmp/web1.ckpt
drover-node box list
drover-node box start web1
drover-node box list
drover-node box start web1
drover-node box exec web1 no-such-command
drover-node box exec web1 /etc/passwd
drover-node box exec web1 -- sh -c "exit 7"
drover-node box destroy web1
drover-node box create web2 --template shell --ip 10.77.0.20/24
drover-node box stop web1
drover-node box destroy web1
drover-node box destroy web1
"""


def scrubbed(text):
    text = re.sub(r"@\d{10}", "@VERSION", text)
    text = re.sub(r"there are: .*", "there are: TEMPLATES", text)  # whatever the tests' store has
    return re.sub(r"(?<!02:00:00:00:00:20)\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b",
                  lambda m: m[0] if m[0].startswith(("02:00:00:00:00", "01:00:5e", "ff:ff")) else "MAC", text)


def transcript(commands, run):
    out = []
    for command in filter(None, (line.strip() for line in commands)):
        result = run(*shlex.split(command))
        out.append(f"$ {command}\n{result.stdout}{result.stderr}[{result.returncode}]\n")
    return scrubbed("\n".join(out))


def check(name, text):
    golden = HERE / f"{name}.txt"
    if os.environ.get("ACCEPT"):
        golden.write_text(text)
    assert text == golden.read_text(), f"{golden.name}: not what was accepted; ACCEPT=1 accepts it"


def here(*argv):
    return subprocess.run(argv, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, cwd="/")


def test_help():
    check("help", transcript(HELP, here))


def test_usage():
    check("usage", transcript(USAGE.splitlines(), here))


@pytest.mark.limit(180)
def test_boxes(lab, templates):
    with Boxes(lab) as boxes:
        check("boxes", transcript(BOXES.splitlines(), lambda *argv: boxes.node.exec(*argv, check=False)))


@pytest.mark.parametrize("name", ["usage", "boxes"])
def test_every_failure_is_a_sentence(name):
    """Each error is one sentence of ours; the ones about the command line end with 2 and say where to look."""
    for part in (HERE / f"{name}.txt").read_text().split("$ ")[1:]:
        status = int(re.search(r"\[(\d+)\]\n+\Z", part)[1])
        errors = re.findall(r"^error: (.*)", part, re.M)
        if "--json" in part or " exec " in part and not errors:
            continue
        assert (status != 0) == bool(errors), part
        for error in errors:
            assert not re.match(r"[A-Z][a-z]", error) and not error.endswith("."), part
            assert not re.search(r"defect|std::|exception", error), part
        if status in (1, 2):
            assert re.search(r"^hint: ", part, re.M), part


def frame(kind, message):
    payload = json.dumps(message).encode()
    return struct.pack("<BI", kind, len(payload)) + payload


HELLO, MEMORY, FAILED = 16, 35, 3  # docs/formats/move-wire.md


@pytest.mark.parametrize("kind, message, says", [
    (HELLO, {"protocol": 3}, "speaks version 3 of the protocol, and this one version "),
    (HELLO, {"protocol": PROTOCOL}, "greeting lacks something, or it is of the wrong type"),
    (MEMORY, {"protocol": PROTOCOL, "box": 7, "id": "x"}, "the other node's message cannot be understood: "),
    (MEMORY, {"protocol": PROTOCOL, "box": "../x", "id": "x"}, "'../x' cannot be a box's name"),
    (HELLO, [1], "holds no JSON object"),
])
def test_what_another_node_says_wrong(tmp_path, kind, message, says):
    """Both sides are told."""
    done = subprocess.run(["drover-node", "--state-dir", tmp_path / "state", "--run-dir", tmp_path / "run", "receive"],
                          input=frame(kind, message), capture_output=True, timeout=30)
    assert done.returncode == 1
    assert says in done.stderr.decode()
    assert done.stdout[0] == FAILED and says in json.loads(done.stdout[5:])["error"]
