"""Reads a FAT32 as a boot loader does: no cache, no repair (Microsoft, "FAT: General Overview of On-Disk Format", 1.03)."""

import struct

SECTOR = 512
END = 0x0FFFFFF8
DIRECTORY, VOLUME, LONG_NAME = 0x10, 0x08, 0x0F


class Fat:
    """Of `data`, a buffer that may change. What cannot be read is a ValueError."""

    def __init__(self, data):
        self.data = data
        size, self.per_cluster, reserved, fats = struct.unpack_from("<HBHB", data, 11)
        fat_sectors, = struct.unpack_from("<I", data, 36)
        self.root, = struct.unpack_from("<I", data, 44)
        if size != SECTOR or not self.per_cluster or fats != 2:
            raise ValueError("no FAT32 as drover makes it")
        self.table = reserved * SECTOR
        self.first = (reserved + fats * fat_sectors) * SECTOR
        self.cluster_bytes = self.per_cluster * SECTOR
        self.last = fat_sectors * SECTOR // 4

    def offset(self, cluster):
        return self.first + (cluster - 2) * self.cluster_bytes

    def chain(self, cluster):
        seen = []
        while cluster < END:
            if not 2 <= cluster < self.last or len(seen) > self.last:
                raise ValueError(f"a chain leads to cluster {cluster}")
            seen.append(cluster)
            cluster = struct.unpack_from("<I", self.data, self.table + 4 * cluster)[0] & 0x0FFFFFFF
        return seen

    def content(self, clusters):
        return b"".join(self.data[self.offset(c):self.offset(c) + self.cluster_bytes] for c in clusters)

    def entries(self, clusters):
        """Name: (attributes, first cluster, size)."""
        found, name, data = {}, "", self.content(clusters)
        for at in range(0, len(data), 32):
            entry = data[at:at + 32]
            if entry[0] == 0:
                break
            if entry[0] == 0xE5:
                name = ""
            elif entry[11] == LONG_NAME:
                name = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le").split("\0")[0] + name
            elif not entry[11] & VOLUME:
                short = entry[:8].decode("latin-1").rstrip() + ("." + entry[8:11].decode("latin-1").rstrip()).rstrip(".")
                high, = struct.unpack_from("<H", entry, 20)
                low, size = struct.unpack_from("<HI", entry, 26)
                found[(name or short).lower()] = (entry[11], high << 16 | low, size)
                name = ""
        return found

    def find(self, path):
        """The file's clusters, its size, and the clusters of the directories that lead to it."""
        clusters, on_the_way = self.chain(self.root), set()
        *parents, last = path.split("/")
        for parent in parents:
            on_the_way.update(clusters)
            attributes, first, _ = self.entry(clusters, parent)
            if not attributes & DIRECTORY:
                raise ValueError(f"{parent} is no directory")
            clusters = self.chain(first)
        on_the_way.update(clusters)
        _, first, size = self.entry(clusters, last)
        return (self.chain(first) if size else []), size, on_the_way

    def entry(self, clusters, name):
        entries = self.entries(clusters)
        if name not in entries:
            raise ValueError(f"there is no {name}")
        return entries[name]

    def read(self, path):
        clusters, size, _ = self.find(path)
        content = self.content(clusters)
        if len(content) < size:
            raise ValueError(f"{path} is cut off")
        return content[:size]
