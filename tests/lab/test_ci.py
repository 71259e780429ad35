"""ci/test itself: what it counts, in a small checkout of its own."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRESETS = """{"version": 6,
 "configurePresets": [{"name": "dev", "generator": "Ninja", "binaryDir": "${sourceDir}/build/dev"}],
 "buildPresets": [{"name": "dev", "configurePreset": "dev"}]}"""


class Checkout:
    def __init__(self, at):
        self.at = at
        self.write("CMakePresets.json", PRESETS)
        self.cmake('add_test(NAME area.Works COMMAND true)')
        self.write("ci/lint", "#!/bin/sh\nexit 0\n")
        self.write("tests/golden/test_one.py", "import pytest, os\ndef test_works(): pass\n")
        shutil.copy(ROOT / "ci/test", at / "ci/test")

    def write(self, name, text):
        path = self.at / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def add(self, text):
        with open(self.at / "tests/golden/test_one.py", "a") as file:
            file.write(text)

    def cmake(self, tests):
        self.write("CMakeLists.txt", f"cmake_minimum_required(VERSION 3.25)\nproject(small NONE)\nenable_testing()\n{tests}\n"
                   "set_property(DIRECTORY PROPERTY LABELS unit)\n"
                   "get_property(all DIRECTORY PROPERTY TESTS)\nset_tests_properties(${all} PROPERTIES LABELS unit)\n")

    def start(self, *words):
        return subprocess.Popen([self.at / "ci/test", *words], text=True, stdin=subprocess.DEVNULL, cwd="/",
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env={name: value for name, value in os.environ.items() if name != "DROVER_PRESET"})

    def run(self, *words):
        """The exit status, the last line, and everything before it."""
        child = self.start(*words)
        output, _ = child.communicate(timeout=50)
        *before, last = output.splitlines()
        return child.returncode, last, "\n".join(before)


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


def test_all_is_well(checkout):
    assert checkout.run()[:2] == (0, "3 passed, 0 failed, 0 skipped")
    assert checkout.run("--only", "unit")[:2] == (0, "1 passed, 0 failed, 0 skipped")
    assert checkout.run("--only", "lint")[:2] == (0, "1 passed, 0 failed, 0 skipped")


def test_failures_are_told_and_counted(checkout):
    checkout.write("ci/lint", "#!/bin/sh\necho line too long\nexit 1\n")
    checkout.cmake('add_test(NAME area.Works COMMAND true)\nadd_test(NAME area.Breaks COMMAND ls /no-such-thing)')
    checkout.add("def test_breaks(): assert 'this' == 'that'\n")
    status, last, output = checkout.run()
    assert (status, last) == (1, "2 passed, 3 failed, 0 skipped")
    for words in ("line too long", "/no-such-thing", "assert 'this' == 'that'"):
        assert words in output


def test_a_tear_down_that_fails_is_one_failure(checkout):
    checkout.add("@pytest.fixture\ndef bad():\n    yield\n    assert False\ndef test_two(bad): pass\n")
    assert checkout.run("--only", "golden")[:2] == (1, "1 passed, 1 failed, 0 skipped")


def test_only_an_expected_skip_is_one(checkout):
    checkout.add("@pytest.mark.parametrize('how', ['a b', 'c'])\n"
                 "def test_skips(how): pytest.skip('no KVM')\n"
                 "class TestIn:\n    def test_it(self): pytest.skip('no disk')\n")
    checkout.cmake('add_test(NAME area.Skips COMMAND sh -c "exit 77")\n'
                   'set_tests_properties(area.Skips PROPERTIES SKIP_RETURN_CODE 77)')
    status, last, output = checkout.run()
    assert (status, last) == (1, "2 passed, 4 failed, 0 skipped")
    names = ["tests/golden/test_one.py::test_skips[a b]", "tests/golden/test_one.py::test_skips[c]",
             "tests/golden/test_one.py::TestIn::test_it", "area.Skips"]
    for name in names:
        assert f"{name} was skipped and is not in tests/expected-skips" in output
    checkout.write("tests/expected-skips", "# comment\n\n" + "".join(f"{name} # a reason\n" for name in names))
    assert checkout.run()[:2] == (0, "2 passed, 0 failed, 4 skipped")
    checkout.write("tests/expected-skips", "area.Skips\n")
    status, last, output = checkout.run()
    assert status == 1 and "tests/expected-skips: area.Skips has no reason" in output


@pytest.mark.parametrize("text", [
    "def test_crashes(): os._exit(0)\n",
    "def test_crashes(): os.kill(os.getpid(), 9)\n",
    "def test_stops(): pytest.exit('enough')\n",
    "this is not Python\n",
])
def test_a_run_that_crashes_is_a_failure(checkout, text):
    checkout.add(text)
    status, last, _ = checkout.run("--only", "golden")
    assert status == 1 and " 1 failed, 0 skipped" in last


def test_no_tests_are_a_failure(checkout):
    checkout.write("tests/golden/test_one.py", "")
    checkout.cmake("")
    checkout.write("CMakeLists.txt", "cmake_minimum_required(VERSION 3.25)\nproject(small NONE)\nenable_testing()\n")
    assert checkout.run()[:2] == (1, "1 passed, 2 failed, 0 skipped")
    assert checkout.run("--only", "crash")[:2] == (1, "0 passed, 1 failed, 0 skipped")


def test_quick_leaves_out_what_is_slow(checkout):
    checkout.write("tests/golden/test_one.py", "import pytest\n@pytest.mark.slow\ndef test_slow(): assert False\n")
    assert checkout.run("--quick")[:2] == (0, "2 passed, 0 failed, 0 skipped")
    assert checkout.run()[:2] == (1, "2 passed, 1 failed, 0 skipped")


def test_a_build_that_fails_is_a_failure(checkout):
    checkout.write("CMakeLists.txt", "cmake_minimum_required(VERSION 3.25)\nproject(small NONE)\n"
                   "add_custom_target(bad ALL COMMAND false)\n")
    status, last, output = checkout.run()
    assert (status, last) == (1, "0 passed, 1 failed, 0 skipped")
    assert "error: the build failed" in output


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_a_failure(checkout, wait_until, how):
    checkout.add(f"def test_hangs():\n    open({str(checkout.at / 'hangs')!r}, 'w')\n    import time\n    time.sleep(1000)\n")
    child = checkout.start("--only", "golden")
    wait_until("the test hangs", (checkout.at / "hangs").exists, timeout=30)
    child.send_signal(how)
    output, _ = child.communicate(timeout=40)
    assert child.returncode == 130
    assert output.splitlines()[-1].endswith(" 1 failed, 0 skipped")


@pytest.mark.parametrize("words", [["--only"], ["--only", "all"], ["now"]])
def test_usage(checkout, words):
    child = checkout.start(*words)
    output, _ = child.communicate(timeout=10)
    assert child.returncode == 2 and output.startswith("error: ") and "usage: ci/test" in output
