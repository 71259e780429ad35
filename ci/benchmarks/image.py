"""host images: build time against mkosi's, sizes by part, what a change costs, and deltas

Both sides have their packages in caches, and nothing else: drover no root and no initrd of an earlier build, mkosi no
incremental tree. Neither asks a mirror (--offline, CacheOnly=always). They build node-vm by turns.

mkosi (Debian 13's) builds what is nearest to node-vm: the same packages, in the same versions and from the same place (drover's
own apt settings, with sid's CRIU), our drover-node by a local repository, and systemd-boot-efi, whose stub it needs. It has no
strip rules; a finalize script takes out of its /usr what is not in drover's, so that both pack the same. It makes a GPT disk with
an ESP and an erofs root of the same compression, with dm-verity, by definitions of systemd-repart. It differs in:
- a UKI for UEFI only (Bootloader=uki), where drover has GRUB for BIOS and UEFI;
- an initrd of mkosi's own, with systemd in it and packed by zstd, as it makes one when none is given. What it takes for that stands
  beside, so that one can subtract it; drover's initrd is made anew, too;
- one root and no data partition, no SBOM, no signature, and no look for what strip left without its library.
It works in memory, as drover does.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import tomllib

from common import ROOT, attempt, bar, figure, first_line, median, ratio

CACHE = pathlib.Path("/var/cache/drover/bench-image")  # packages of both, kept between runs
BUILD = ROOT / "build/release"
# Here and not in ci/packages.txt: only this needs them. reprepro makes mkosi's local repository.
PEER = ("mkosi", "reprepro")
BIG = ("root.img", "vmlinuz", "initrd")
MB = 1_000_000
FINALIZE = """#!/bin/sh
set -eu
export LC_ALL=C
cat >/tmp/kept <<'KEPT'
{kept}
KEPT
cd "$BUILDROOT"
find usr ! -type d | sort | comm -23 - /tmp/kept | xargs -d '\\n' -r rm
find usr -mindepth 1 -type d -empty -delete
rm -rf boot/*
"""
# A new function in front of all others: every address behind it moves, as after a change of the source.
CHANGE = """
extern "C" __attribute__((used, retain, noinline)) unsigned long long drover_bench_change(const unsigned char* p, unsigned long n) {
  unsigned long long sum = 1469598103934665603ULL;
  for (unsigned long i = 0; i < n; ++i) sum = (sum ^ p[i]) * 1099511628211ULL;
  return sum;
}
"""
NOTE = ""  # what common.py puts above the table
MORE = ""  # and below it


def run_logged(argv, log, **options):
    """Runs it with what it says in `log`; seconds."""
    start = time.monotonic()
    with open(log, "w", encoding="utf-8") as file:
        done = subprocess.run([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                              timeout=3600, check=False, **options)
    if done.returncode != 0:
        said = pathlib.Path(log).read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{said[-3000:]}")
    return time.monotonic() - start


def seconds_of(log, phase):
    """What drover's progress says of a phase; 0 where there was none."""
    found = re.findall(rf"^{phase}: ([0-9.]+) s", log.read_text(encoding="utf-8"), re.MULTILINE)
    return sum(float(seconds) for seconds in found)


class Bench:
    """Definitions that may be changed, images, mkosi's configuration; in one directory."""

    def __init__(self, place):
        self.place, self.definitions = place, place / "definitions"
        shutil.copytree(ROOT / "image/definitions", self.definitions)
        self.logs = 0

    def image(self, name):
        return self.place / "images" / name

    def drover(self, *words):
        """`drover image …`; seconds, and the log."""
        self.logs += 1
        log = self.place / f"drover-{self.logs}.log"
        return run_logged(["drover", "--state-dir", self.place / "state", "image", *words], log), log

    def build(self, definition, out, *more):
        return self.drover("build", self.definitions / f"{definition}.toml", "-o", self.image(out), "--cache-dir", CACHE, *more)

    def parts(self, out):
        """Bytes of each."""
        manifest = json.loads((self.image(out) / "manifest.json").read_text(encoding="utf-8"))
        return {part["name"]: part["bytes"] for part in manifest["parts"]}

    def packages(self, out):
        manifest = json.loads((self.image(out) / "manifest.json").read_text(encoding="utf-8"))
        return [f"{package['name']} {package['version']}" for package in manifest["packages"]]

    def variant(self, name, text):
        """A definition that is node-vm's but for its name, and for what `text` says."""
        (self.definitions / f"{name}.toml").write_text(f'from = "node-vm.toml"\nname = "{name}"\n{text}\n', encoding="utf-8")
        return name

    def delta(self, old, new):
        """Bytes of the delta, and of NEW's root, kernel and initrd."""
        said = subprocess.run(["drover", "--json", "--state-dir", self.place / "state", "image", "delta", self.image(old),
                               self.image(new), "-o", self.place / "delta"], check=True, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True).stdout
        report = json.loads(said)
        return {"bytes": report["bytes"], "of": report["image_bytes"],
                "parts": {part["part"]: part["delta_bytes"] for part in report["parts"]}}


# mkosi


def install_peer():
    if all(shutil.which(name) for name in PEER):
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update"], ["apt-get", "install", "--yes", "--no-install-recommends", *PEER]):
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env, timeout=1200)


def files_of(image, work):
    """Paths below /usr of what an image has in its root, and of the kernel modules in its initrd, as a root has them."""
    work.mkdir()
    subprocess.run(["fsck.erofs", f"--extract={work}/root", image / "root.img"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    files = {str(file.relative_to(work / "root")) for file in (work / "root/usr").rglob("*") if file.is_symlink() or not file.is_dir()}
    shutil.rmtree(work)
    plain = subprocess.run(["xz", "--decompress", "--stdout", image / "initrd"], check=True, stdout=subprocess.PIPE).stdout
    listed = subprocess.run(["cpio", "--list", "--quiet"], input=plain, check=True, stdout=subprocess.PIPE).stdout.decode()
    return files | {f"{line}.xz" for line in listed.splitlines() if line.endswith(".ko")}


class Mkosi:
    """mkosi with a configuration that is written from node-vm.toml, and from what drover has built of it."""

    def __init__(self, place, node):
        self.place = place
        own, shared = (tomllib.loads((ROOT / f"image/definitions/{name}.toml").read_text(encoding="utf-8")) for name in ("node-vm", "node"))
        packages = shared["packages"]
        for directory in ("sandbox/etc/apt/preferences.d", "sandbox/etc/apt/sources.list.d", "repart", "packages", "out"):
            (place / directory).mkdir(parents=True)
        (CACHE / "mkosi").mkdir(parents=True, exist_ok=True)
        self.apt_settings({word.partition("/")[2] for word in packages} - {""})
        for package in BUILD.glob("drover-node_*.deb"):
            shutil.copy(package, place / "packages")
        kernel = json.loads((node / "manifest.json").read_text(encoding="utf-8"))["kernel_version"]
        aside = [f"usr/lib/modules/{kernel}/vmlinuz", "usr/lib/systemd/boot/"]  # mkosi wants them, and puts them into the ESP
        algorithm, _, level = own["root"]["compression"].partition(",")
        self.partition("00-esp", Type="esp", Format="vfat", CopyFiles="/efi:/", SizeMinBytes="128M", SizeMaxBytes="128M")
        self.partition("10-root", Type="root", Format="erofs", Compression=algorithm, CompressionLevel=level, CopyFiles="/",
                       Verity="data", VerityMatchKey="root", Minimize="best",
                       ExcludeFiles=[f"/{path}" for path in aside])
        self.partition("20-verity", Type="root-verity", Verity="hash", VerityMatchKey="root", Minimize="best")
        self.finalize_script(files_of(node, place / "extracted") | {aside[0], aside[1] + "efi/linuxx64.efi.stub"})
        packages = [word.partition("/")[0] for word in packages]
        self.configuration([*packages, own["kernel"]["package"], "systemd-boot-efi"], own["root"]["cluster"])

    def finalize_script(self, kept):
        script = self.place / "finalize.sh"
        script.write_text(FINALIZE.format(kept="\n".join(sorted(kept, key=str.encode))), encoding="utf-8")
        script.chmod(0o755)

    def apt_settings(self, suites):
        """drover's own: the same mirror, suites and preferences. The newest is of the build just done."""
        newest = max((CACHE / "apt").iterdir(), key=lambda directory: (directory / "etc/sources.list").stat().st_mtime)
        sources = (newest / "etc/sources.list").read_text(encoding="utf-8")
        if not all(f" {suite} " in sources for suite in suites):
            raise RuntimeError(f"{newest} is not of node-vm")
        target = self.place / "sandbox/etc/apt"
        (target / "sources.list").write_text(sources, encoding="utf-8")
        (target / "sources.list.d/mkosi.sources").write_text("", encoding="utf-8")  # else it writes one, with suites of its own
        shutil.copy(newest / "etc/preferences.d/drover", target / "preferences.d")

    def partition(self, name, **settings):
        text = "[Partition]\n"
        for key, values in settings.items():
            text += "".join(f"{key}={value}\n" for value in (values if isinstance(values, list) else [values]) if value)
        (self.place / f"repart/{name}.conf").write_text(text, encoding="utf-8")

    def configuration(self, packages, cluster):
        settings = {
            "Distribution": {"Distribution": "debian", "Release": "trixie"},
            "Output": {"Format": "disk", "Output": "node", "OutputDirectory": self.place / "out", "RepartDirectories": self.place / "repart"},
            "Content": {"Packages": packages, "PackageDirectories": self.place / "packages", "WithDocs": "no", "Bootable": "yes",
                        "Bootloader": "uki", "CleanPackageMetadata": "yes", "FinalizeScripts": self.place / "finalize.sh"},
            "Build": {"SandboxTrees": self.place / "sandbox", "PackageCacheDirectory": CACHE / "mkosi", "BuildSources": "",
                      "Environment": f"SYSTEMD_REPART_MKFS_OPTIONS_EROFS=-C{cluster}"},
        }
        text = ""
        for section, values in settings.items():
            text += f"[{section}]\n"
            for key, value in values.items():
                text += f"{key}=" + ("\n    ".join(value) if isinstance(value, list) else str(value)) + "\n"
        (self.place / "mkosi.conf").write_text(text, encoding="utf-8")

    def build(self, cache_only="always"):
        """Seconds: of all, and by what it is doing, by the first words of its steps."""
        steps = {"root": "Building default image", "disk": "Generating disk image", "initrd": "Building default initrd",
                 "boot": "Running modinfo"}
        began, log = {}, []
        with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="drover-bench-") as work:
            start = time.monotonic()
            argv = ["mkosi", "--directory", self.place, "--workspace-directory", work, "--cache-only", cache_only, "--force", "build"]
            with subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, errors="replace") as child:
                for line in child.stdout:
                    log.append(line)
                    for step, words in steps.items():
                        if words in line:
                            began[step] = began.get(step, time.monotonic())
            end = time.monotonic()
        if child.returncode != 0:
            raise RuntimeError(f"mkosi ended with {child.returncode}:\n{''.join(log)[-3000:]}")
        order = [began[step] for step in steps] + [end]
        return {"all": end - start} | {step: order[i + 1] - order[i] for i, step in enumerate(steps)}

    def sizes(self):
        """Bytes of the partitions, as they are in the disk, and of what is in the ESP."""
        table = json.loads(first_line_of_all("sfdisk", "--json", self.place / "out/node.raw"))["partitiontable"]
        sizes = {row["name"]: row["size"] * table.get("sectorsize", 512) for row in table["partitions"]}
        root = sum(size for name, size in sizes.items() if "verity" in name or name.startswith("root"))
        return {"root": root, "vmlinuz": (self.place / "out/node.vmlinuz").stat().st_size,
                "initrd": (self.place / "out/node.initrd").stat().st_size, "uki": (self.place / "out/node.efi").stat().st_size}


def first_line_of_all(*argv):
    return subprocess.run([str(word) for word in argv], check=True, stdout=subprocess.PIPE, text=True).stdout


# What is measured


def measure_time(bench, runs, seen):
    """By turns. node-vm is there at the end, and mkosi's image."""
    bench.build("node-vm", "node-vm")  # fetches the packages
    install_peer()
    mkosi = Mkosi(bench.place / "mkosi", bench.image("node-vm"))
    mkosi.build("auto")  # fetches its packages
    for _ in range(runs):
        shutil.rmtree(CACHE / "image", ignore_errors=True)
        shutil.rmtree(bench.image("node-vm"), ignore_errors=True)
        seconds, log = bench.build("node-vm", "node-vm", "--offline")
        seen["drover"].append({"all": seconds} | {phase: seconds_of(log, phase) for phase in ("install packages", "initrd", "pack")})
        seen["mkosi"].append(mkosi.build())
    return mkosi.sizes()


def measure_rebuild(bench, runs):
    """Seconds of a build when nothing has changed, and when a file of the definition has."""
    unchanged, changed = [], []
    name = bench.variant("node-vm-file", "")
    bench.build(name, name)
    for turn in range(runs):
        unchanged.append(bench.build(name, name)[0])
        bench.variant(name, f'[[file]]\npath = "/etc/issue"\ncontent = "{turn}"')
        changed.append(bench.build(name, name)[0])
    return median(unchanged), median(changed)


def measure_package_delta(bench):
    """To the image with sid's chrony."""
    bench.build("node-vm", "before")
    bench.build(bench.variant("node-vm-chrony", 'packages = ["chrony/sid"]'), "after")
    both = [next(word for word in bench.packages(name) if word.startswith("chrony ")) for name in ("before", "after")]
    return bench.delta("before", "after") | {"what": " to ".join(word.partition(" ")[2] for word in both)}


def relink(program, change, target):
    """The release build's own link command, with one object more in front."""
    commands = subprocess.run(["ninja", "-C", BUILD, "-t", "commands", f"bin/{program}"], check=True, stdout=subprocess.PIPE,
                              text=True).stdout.splitlines()
    link = next(line for line in reversed(commands) if f"-o bin/{program} " in line)
    command, there = re.subn(rf"-o bin/{program} ", f"-o {target} {change} ", link)
    if there != 1:
        raise RuntimeError(f"not one output in: {link}")
    subprocess.run(["sh", "-euc", command], cwd=BUILD, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["strip", target], check=True)


PROGRAMS = {"drover-node": "usr/bin/drover-node", "drover-init": "usr/lib/drover/drover-init"}  # and where the package has them


def changed_package(bench, programs):
    """Our own package with these programs changed; the directory that it is in."""
    place = bench.place / "-".join(programs)
    tree, directory, change = place / "deb", place / "changed", place / "change.o"
    place.mkdir()
    directory.mkdir()
    package = max(BUILD.glob("drover-node_*.deb"), key=lambda file: file.stat().st_mtime)
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    subprocess.run(["c++", "-O2", "-c", "-x", "c++", "-", "-o", change], input=CHANGE, text=True, check=True)
    for program in programs:
        relink(program, change, tree / PROGRAMS[program])
    control = tree / "DEBIAN/control"
    control.write_text(re.sub("(?m)^(Version: .*)$", r"\1+1", control.read_text(encoding="utf-8")), encoding="utf-8")
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, directory], check=True, stdout=subprocess.DEVNULL)
    return directory


def measure_own_delta(bench, programs):
    bench.build("node-vm", "before")
    bench.build("node-vm", "after", "--packages", changed_package(bench, programs))
    return bench.delta("before", "after")


def build_metal(bench):
    bench.build("node-metal", "node-metal")
    return bench.parts("node-metal")


# What comes out


def megabytes(size):
    return None if size is None else size / MB


def size_table(vm, metal, peer, packages):
    rows = ["| part | node-vm | node-metal | mkosi, of node-vm's packages |", "| --- | ---: | ---: | ---: |"]
    peers = {"root.img": "root", "vmlinuz": "vmlinuz", "initrd": "initrd"}

    def row(name, of):
        return f"| {name} | " + " | ".join("" if size is None else f"{size:,}" for size in of) + " |"

    for name in BIG:
        rows.append(row(f"`{name}`", [(vm or {}).get(name), (metal or {}).get(name), (peer or {}).get(peers[name])]))
    rows.append(row("together", [of and sum(of[name] for name in names) for of, names in
                                 ((vm, BIG), (metal, BIG), (peer, peers.values()))]))
    text = "## Bytes by part\n\n" + "\n".join(rows) + "\n\nThe root is with its hash tree on both sides; mkosi's kernel and initrd "
    text += "lie in its UKI once more.\n"
    for name, listed in packages.items():
        text += f"\n## Packages of {name}\n\n{len(listed)} packages.\n\n" + ", ".join(listed) + "\n"
    return text


def time_bars(seen):
    def of(side, key):
        return median(one[key] for one in seen[side])

    rows = [figure("node-vm from warm packages: mkosi", of("mkosi", "all"), "s")]
    rows += [figure(f"of that {what}", of("mkosi", key), "s") for what, key in
             (("its root", "root"), ("erofs and disk", "disk"), ("its initrd", "initrd"), ("UKI and disk", "boot"))]
    rows.append(figure("node-vm from warm packages: drover", of("drover", "all"), "s"))
    rows += [figure(f"of that {what}", of("drover", key), "s") for what, key in
             (("its root", "install packages"), ("its initrd", "initrd"), ("erofs", "pack"))]
    rows.append(bar("node-vm from warm packages: drover / mkosi", ratio(of("drover", "all"), of("mkosi", "all")), 0.5))
    return rows


def size_bars(name, parts, goal):
    rows = [figure(f"{name}: {part}", megabytes(parts and parts[part]), "MB") for part in BIG]
    return rows + [bar(f"{name}: root, kernel and initrd", megabytes(parts and sum(parts[part] for part in BIG)), goal, "MB")]


def run(runs):
    global NOTE, MORE
    subprocess.run(["cpack", "-G", "DEB"], cwd=BUILD, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="drover-bench-") as place:
        bench, seen, packages = Bench(pathlib.Path(place)), {"drover": [], "mkosi": []}, {}
        peer = attempt("build time, by turns with mkosi", measure_time, bench, runs, seen)
        vm = attempt("node-vm's parts", bench.parts, "node-vm")
        unchanged, changed = attempt("rebuilds", measure_rebuild, bench, runs) or (None, None)
        chrony = attempt("delta of a package", measure_package_delta, bench)
        own = attempt("delta of drover-node", measure_own_delta, bench, ["drover-node"])
        both = attempt("delta of all of drover-node's package", measure_own_delta, bench, list(PROGRAMS))
        metal = attempt("node-metal", build_metal, bench)
        packages |= {name: bench.packages(name) for name, there in (("node-vm", vm), ("node-metal", metal)) if there}
    version = first_line("dpkg-query", "--show", "--showformat", "${Version}", "mkosi") if peer else "not there"
    NOTE = f"MB are 10^6 bytes. mkosi {version}; what it builds and how it differs is said in `ci/benchmarks/image.py`."
    MORE = size_table(vm, metal, peer, packages)
    rows = time_bars(seen)
    rows += [bar("node-vm: unchanged rebuild", unchanged, 5, "s"), bar("node-vm: a changed file", changed, 20, "s")]
    rows += size_bars("node-vm", vm, 48) + size_bars("node-metal", metal, 140)
    rows.append(figure("mkosi, node-vm's packages: root, kernel and initrd",
                       megabytes(peer and peer["root"] + peer["vmlinuz"] + peer["initrd"]), "MB"))
    what = f"chrony {chrony['what']}" if chrony else "chrony"
    rows.append(bar(f"delta, {what} / image", chrony and ratio(chrony["bytes"], chrony["of"]), 0.03))
    rows.append(bar("delta, drover-node with one function more / image", own and ratio(own["bytes"], own["of"]), 0.03))
    rows.append(figure("delta, with one function more in drover-init, too: root.img", both and both["parts"]["root.img"] / 1000, "kB"))
    rows.append(figure("delta, with one function more in drover-init, too: initrd", both and both["parts"]["initrd"] / 1000, "kB"))
    return rows
