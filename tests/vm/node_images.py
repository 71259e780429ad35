"""A host image as users build it, and machines that boot its disk: with a console that is read, and ssh into it."""

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import loader
import pytest
from conftest import ROOT, no_time_limit
from image_builds import packages, run  # noqa: F401: a fixture

DISK_BYTES = 2 << 30
MEMORY_MIB = 1024
# Seconds that a boot may take until it is confirmed, on two cores without KVM that other tests use as well.
BOOT_S = {"seabios": 150, "ovmf": 200}
CONFIRMED = "is healthy, and confirmed"
BUILT = []


class Image:
    """node-vm, but for a key for root and for what `more` says, built in `directory`. `at(part)` is a part's path."""

    def __init__(self, directory, packages, more=""):  # noqa: F811
        self.directory = directory / "image"
        self.key = directory / "key"
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        definition = directory / "tested.toml"
        definition.write_text(f'''from = "{ROOT}/image/definitions/node-vm.toml"
name = "tested"
{more}
[[user]]
name = "root"
ssh_keys = ["{self.key.with_suffix(".pub").read_text().strip()}"]
''')
        self.state = directory / "state"
        run("drover", "--state-dir", self.state, "image", "build", definition, "-o", self.directory, "--packages", packages)

    def at(self, part):
        return self.directory / part


def start_of(disk, partition):
    """In sectors."""
    for line in run("sfdisk", "--dump", disk).stdout.splitlines():
        if f'name="{partition}"' in line:
            return int(line.split("start=")[1].split(",")[0])
    raise AssertionError(f"no partition {partition}")


class Node(loader.Machine):
    """A machine of its own disk, which may be on and off several times. Its console is kept in build/PRESET/results."""

    def __init__(self, image, directory, name, firmware="seabios", disk="virtio-blk-pci", network="virtio-net-pci"):
        """`disk` and `network`: QEMU's devices, the last of `disk` with the disk in it."""
        self.image, self.directory, self.name, self.firmware = image, directory, name, firmware
        self._disk, self._network = disk.split(), network
        path = directory / "disk.img"
        run("cp", "--sparse=always", image.at("disk.img"), path)
        os.truncate(path, DISK_BYTES)
        super().__init__(path, start_of(path, "drover-esp"))
        self.said = ""  # in this round
        self.log = None  # a file for the writes to its disk, as dm-log-writes has them
        self._process = None
        self._rounds = 0

    def start_of(self, partition):
        return start_of(self.path, partition)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.off()

    def on(self, server=False, disk=True):
        """With a boot server in its network, QEMU's own TFTP, or without; without a disk by the iPXE in its network card."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        # A BIOS without a screen speaks on the serial line: so iPXE is heard.
        # One processor: with two, and a thread for each, two boots of one run ended inside QEMU 10.0 (a timer that did not wake, an
        # assertion of its own). Why is not known.
        argv = ["qemu-system-x86_64", "-machine", "q35,graphics=off", "-accel", "tcg,thread=single,tb-size=512", "-cpu", "qemu64",
                "-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
                "-device", "virtio-rng-pci", "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"]
        if server:
            argv[-1] += f",tftp={self.image.directory},bootfile=boot.ipxe"
        argv += ["-device", f"{self._network},netdev=net" + (",romfile=" if disk else "")]
        if disk:
            devices = [*self._disk[:-1], f"{self._disk[-1]},drive=" + ("logged" if self.log else "disk")]
            argv += [word for device in devices for word in ("-device", device)]
            argv += ["-blockdev", f"driver=raw,node-name=disk,file.driver=file,file.filename={self.path}"]
        if self.log:
            self.log.touch()
            argv += ["-blockdev", f"driver=file,node-name=log,filename={self.log}",
                     "-blockdev", "driver=blklogwrites,node-name=logged,file=disk,log=log,log-append="
                     + ("on" if self.log.stat().st_size else "off")]
        if self.firmware == "ovmf":
            variables = self.directory / "vars.fd"
            if not variables.exists():
                shutil.copy(f"{loader.OVMF}/OVMF_VARS_4M.fd", variables)
            argv += ["-drive", f"if=pflash,format=raw,readonly=on,file={loader.OVMF}/OVMF_CODE_4M.fd",
                     "-drive", f"if=pflash,format=raw,file={variables}"]
        self.said = ""
        self._rounds += 1
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        loader.CONSOLES.mkdir(parents=True, exist_ok=True)
        with open(loader.CONSOLES / f"node-{self.name}-{self.firmware}-{self._rounds}-console.log", "wb") as console:
            while data := self._process.stdout.read1(65536):
                console.write(data)
                console.flush()
                self.said += data.decode(errors="replace")

    def off(self):
        """The power is cut."""
        if self._process:
            self._process.kill()
            self._ended()

    def _ended(self):
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process = None

    def sees(self, text, seconds=None):
        """Waits until the console has said it."""
        end = time.monotonic() + (seconds or BOOT_S[self.firmware])
        while text not in self.said:
            if self._process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"{self.name}: {text!r} is not on the console; its end is:\n{self.said[-2000:]}")
            time.sleep(0.05)

    def resets(self, seconds=None):
        """Waits until the machine has started again by itself: QEMU ends there."""
        try:
            self._process.wait(seconds or BOOT_S[self.firmware])
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self.name}: the machine does not start again; the console's end is:\n{self.said[-2000:]}")
        assert self._process.returncode == 0, self.said[-2000:]
        self._ended()

    def ssh(self, command, seconds=60, check=True):
        return run("ssh", "-i", self.image.key, "-p", self._port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes", "root@127.0.0.1", command, check=check, timeout=seconds).stdout

    def power_down(self):
        """As an operator does it. The data partition is let go of before that."""
        self.ssh("systemctl poweroff", check=False)
        self.resets()
        assert not re.search("Failed unmounting.*(journal|drover|efi)", self.said), self.said[-2000:]


@pytest.fixture(scope="session")
def image(packages, tmp_path_factory):  # noqa: F811
    """One for all modules: each that imports a fixture has another one."""
    loader.install()
    with no_time_limit():
        if not BUILT:
            BUILT.append(Image(tmp_path_factory.mktemp("image"), packages))
        return BUILT[0]
