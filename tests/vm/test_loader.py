"""GRUB itself, with the grub.cfg of a node: it chooses and counts as the model does, and writes one sector only."""

import pytest
from loader import SECTOR, Disk, choices, model  # noqa: F401: a fixture

pytestmark = [pytest.mark.slow, pytest.mark.limit(180)]

FIRMWARES = {"seabios": 60, "ovmf": 120}  # and how many seconds a round may take
END = b"loader: all states seen"
ENDING = ["reboot", "sleep"]


def changed_sectors(before, after):
    assert len(before) == len(after)
    return {k // SECTOR for k in range(0, len(before), SECTOR) if before[k:k + SECTOR] != after[k:k + SECTOR]}


@pytest.mark.parametrize("firmware", FIRMWARES)
def test_every_state_as_the_model_has_it(model, tmp_path, firmware):  # noqa: F811
    """In one round: `reboot` and `sleep` are not in this GRUB, and are functions that do nothing, so each state's
    grub.cfg comes back."""
    states = sorted(path.stem for path in model.glob("*.before"))
    assert len(states) == 162
    script = ["serial --unit=0 --speed=115200", "terminal_output serial", "set top=$prefix",
              "function reboot { true; }", "function sleep { true; }"]
    files = {"drover/grub-real.cfg": (model / "grub.cfg").read_bytes()}
    for state in states:
        script += [f"set prefix=$top/{state}", "source $top/grub-real.cfg"]
        files[f"drover/{state}/slot-state"] = (model / f"{state}.before").read_bytes()
    files["drover/grub.cfg"] = "\n".join([*script, f"echo '{END.decode()}'", ""]).encode()
    disk = Disk(tmp_path, files, ["true"])
    before = disk.path.read_bytes()
    said = disk.boot("states", firmware, FIRMWARES[firmware], until=END)
    after = disk.path.read_bytes()
    assert choices(said) == [(model / f"{state}.choice").read_text() for state in states]
    left = {state: disk.get(f"drover/{state}/slot-state") for state in states}
    assert left == {state: (model / f"{state}.after").read_bytes() for state in states}
    # Each count is one write of one sector, whatever it holds; also a write that changes nothing would be seen.
    counted = [state for state in states if (model / f"{state}.before").read_bytes() != (model / f"{state}.after").read_bytes()]
    assert [count for _, count in disk.writes()] == [1] * len(counted)
    assert changed_sectors(before, after) == {first for first, _ in disk.writes()}


def sector(model, choice, **lines):  # noqa: F811
    """The sector before a boot, and the one after it, with these lines."""
    for path in sorted(model.glob("*.before")):
        text = path.read_text()
        if all(f"\n{key}={value}\n" in text for key, value in lines.items()):
            assert path.with_suffix(".choice").read_text() == choice
            return path.read_bytes(), path.with_suffix(".after").read_bytes()
    raise AssertionError(f"no state with {lines}")


@pytest.mark.parametrize("firmware", FIRMWARES)
def test_a_trial_falls_back_round_by_round(model, tmp_path, firmware):  # noqa: F811
    """With nothing to boot in either slot, each round counts one try, and ends with a reset, without a keyboard."""
    state, _ = sector(model, "b", first="b", b_health="trial", b_tries=1, a_health="confirmed", a_tries=2)
    disk = Disk(tmp_path, {"drover/grub.cfg": (model / "grub.cfg").read_bytes(), "drover/slot-state": state}, ENDING)
    for k, choice in enumerate(["b", "a", "a", "rescue"]):
        said = disk.boot(f"round{k}", firmware, FIRMWARES[firmware])
        assert choices(said) == [choice], said
    assert disk.get("drover/slot-state") == state.replace(b"b_tries=1", b"b_tries=0").replace(b"a_tries=2", b"a_tries=0")


@pytest.mark.parametrize("damage", ["", "#" * SECTOR, "# GRUB Environment Block\n" + "#" * 487], ids=["empty", "filled", "without-lines"])
def test_a_state_that_cannot_be_read_is_rescue(model, tmp_path, damage):  # noqa: F811
    disk = Disk(tmp_path, {"drover/grub.cfg": (model / "grub.cfg").read_bytes(), "drover/slot-state": damage.encode()}, ENDING)
    before = disk.path.read_bytes()
    assert choices(disk.boot("damaged", "seabios", 60)) == ["rescue"]
    assert disk.path.read_bytes() == before and disk.writes() == []


@pytest.mark.parametrize("health, choice", [("trial", "a"), ("confirmed", "b")])
def test_a_disk_that_takes_no_writes(model, tmp_path, health, choice):  # noqa: F811
    """A trial that cannot be counted is not started; a confirmed slot is."""
    state, _ = sector(model, "b", first="b", b_health=health, b_tries=3, a_health="confirmed", a_tries=3)
    disk = Disk(tmp_path, {"drover/grub.cfg": (model / "grub.cfg").read_bytes(), "drover/slot-state": state}, ENDING)
    before = disk.path.read_bytes()
    assert choices(disk.boot("readonly", "seabios", 60, drive=",readonly=on")) == [choice]
    assert disk.path.read_bytes() == before
