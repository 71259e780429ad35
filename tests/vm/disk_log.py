"""What a machine has written to its disk, in order: the format of the kernel's dm-log-writes, which QEMU writes as well
(drivers/md/dm-log-writes.c, block/blklogwrites.c)."""

import struct

MAGIC = 0x6A736677736872
FLUSH, DISCARD = 1, 4


def writes(path):
    """(offset in bytes, data) of each write. A flush is none; a discard changes no byte that is counted on."""
    log = path.read_bytes()
    magic, version, count, size = struct.unpack_from("<QQQI", log)
    assert magic == MAGIC and version == 1 and size == 512, (magic, version, size)
    found, at = [], size
    for _ in range(count):
        sector, sectors, flags, _ = struct.unpack_from("<QQQQ", log, at)
        at += size
        if flags & DISCARD or not sectors:
            continue
        found.append((sector * size, log[at:at + sectors * size]))
        assert len(found[-1][1]) == sectors * size, "the log is cut off"
        at += sectors * size
    return found
