"""Disks with GRUB and nothing else to boot, under QEMU: they say what the loader decides, and what it writes."""

import fcntl
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, checked, no_time_limit

PACKAGES = ("qemu-system-x86", "ovmf", "grub-common", "grub-pc-bin", "grub-efi-amd64-bin", "mtools")
PROGRAMS = ("qemu-system-x86_64", "grub-mkimage", "mcopy")
GRUB = "/usr/lib/grub"
OVMF = "/usr/share/OVMF"
# What loader_config() and a disk need, without what ends a round of the machine (reboot, sleep): a test names those.
MODULES = ["part_msdos", "part_gpt", "fat", "normal", "configfile", "loadenv", "test", "echo", "serial", "terminal", "boot"]
PLATFORMS = {"i386-pc": ["biosdisk"], "x86_64-efi": []}
SECTOR = 512
ESP_START = 8192  # sectors; GRUB for BIOS stands before it
ESP_SECTORS = 65536
CONSOLES = ROOT / "build" / os.environ.get("DROVER_PRESET", "dev") / "results"


def run(*argv):
    return checked(subprocess.run([str(word) for word in argv], text=True, capture_output=True, stdin=subprocess.DEVNULL,
                                  timeout=60))


def choices(said):
    """What the loader has said that it starts, round by round. On a BIOS's console its line may be broken, and then said twice."""
    return re.findall(r"drover: (a|b|rescue)\b(?! did not start)", said)


def install():
    """Here and not in ci/packages.txt, as ci/vm does with QEMU."""
    if all(shutil.which(program) for program in PROGRAMS) and os.path.exists(OVMF) and \
            all(os.path.exists(f"{GRUB}/{platform}") for platform in PLATFORMS):
        return
    with no_time_limit(), open("/var/cache/apt-loader.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            checked(subprocess.run(["apt-get", *words], text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=600,
                                   env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}))


class Machine:
    """The raw disk `path`, with an ESP at sector `esp_start`, and a machine that boots it."""

    def __init__(self, path, esp_start):
        self.path = path
        self.esp = f"{path}@@{esp_start * SECTOR}"

    def put(self, path, content):
        parent = self.path.parent
        (parent / "part").write_bytes(content)
        missing = []
        folder = os.path.dirname(path)
        while folder and subprocess.run(["mdir", "-i", self.esp, f"::{folder}"], capture_output=True, timeout=60).returncode:
            missing.append(folder)
            folder = os.path.dirname(folder)
        for folder in reversed(missing):
            run("mmd", "-i", self.esp, f"::{folder}")
        run("mcopy", "-o", "-i", self.esp, parent / "part", f"::{path}")

    def get(self, path):
        run("mcopy", "-n", "-o", "-i", self.esp, f"::{path}", self.path.parent / "got")
        return (self.path.parent / "got").read_bytes()

    def writes(self):
        """What the last round has written to the disk: (sector, how many), in order."""
        return [(int(sector), int(count)) for sector, count in
                re.findall(r"virtio_blk_handle_write .*sector (\d+) nsectors (\d+)", (self.path.parent / "writes").read_text())]

    def boot(self, name, firmware, seconds, *, until=None, drive="", machine=""):
        """One round of the machine: until it resets, or has said `until`. What its serial line said."""
        CONSOLES.mkdir(parents=True, exist_ok=True)
        console = CONSOLES / f"loader-{name}-{firmware}-console.log"
        argv = ["qemu-system-x86_64", "-machine", f"q35{machine}", "-accel", "tcg", "-cpu", "qemu64", "-m", "256", "-nodefaults", "-no-reboot",
                "-display", "none", "-serial", "stdio", "-drive", f"file={self.path},format=raw,if=virtio,cache=writethrough{drive}"]
        argv += ["-trace", "virtio_blk_handle_write", "-D", f"{self.path.parent}/writes"]
        if firmware == "ovmf":
            shutil.copy(f"{OVMF}/OVMF_VARS_4M.fd", self.path.parent / "vars.fd")
            argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={OVMF}/OVMF_CODE_4M.fd",
                     "-drive", f"if=pflash,format=raw,file={self.path.parent}/vars.fd"]
        said = b""
        process = subprocess.Popen(["timeout", "--signal=KILL", str(seconds), *argv], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while data := process.stdout.read1(65536):
                said += data
                if until and until in said:
                    return said.decode(errors="replace")
        finally:
            process.terminate()  # timeout(1) hands it on
            process.wait()
            process.stdout.close()
            console.write_bytes(said)
        assert process.returncode == 0 and not until, f"QEMU ended with {process.returncode}; {console}:\n{said[-1500:]!r}"
        return said.decode(errors="replace")


class Disk(Machine):
    """`files` (path: bytes) on an ESP, and GRUB in front of it and in it, for BIOS and UEFI."""

    def __init__(self, directory, files, modules=()):
        super().__init__(directory / "disk.raw", ESP_START)
        self.path.write_bytes(self._partition_table())
        os.truncate(self.path, (ESP_START + ESP_SECTORS) * SECTOR)
        run("mformat", "-i", self.esp, "-T", ESP_SECTORS, "-h", 255, "-s", 63, "-H", ESP_START, "::")
        for platform, own in PLATFORMS.items():
            core = directory / f"core.{platform}"
            prefix = "(,msdos1)/drover" if platform == "i386-pc" else "/drover"
            run("grub-mkimage", "-O", platform, "-p", prefix, "-o", core, *MODULES, *own, *modules)
            if platform == "i386-pc":
                # boot.img loads core.img from sector 1 on: grub-mkimage's own block list says so.
                self._write(0, Path(f"{GRUB}/i386-pc/boot.img").read_bytes()[:440])
                assert core.stat().st_size < (ESP_START - 1) * SECTOR
                self._write(SECTOR, core.read_bytes())
            else:
                self.put("EFI/BOOT/BOOTX64.EFI", core.read_bytes())
        for path, content in files.items():
            self.put(path, content)

    @staticmethod
    def _partition_table():
        entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0xEF, b"\xfe\xff\xff", ESP_START, ESP_SECTORS)
        return bytes(446) + entry + bytes(48) + b"\x55\xaa"

    def _write(self, offset, data):
        with open(self.path, "r+b") as file:
            file.seek(offset)
            file.write(data)


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The directory that tests/tools/slot_model.cc fills."""
    install()
    directory = tmp_path_factory.mktemp("model")
    run("slot_model", "states", directory)
    return directory
