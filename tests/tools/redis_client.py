#!/usr/bin/env python3
"""Talks to a redis over one TCP connection, and checks every answer.

usage: redis_client.py HOST [--port N] [--fill MB] [--pause MS] [--seconds S]

Counts up with INCR, one request at a time: each answer must be one more than the answer before it, so a lost
write, one done twice and an older copy of the data all show. Prints "ready" when the first answer is there,
goes on until stdin ends, SIGTERM comes or the seconds are over, then reads the count once more and prints

    {"requests": N, "wrong": N, "errors": N, "resets": N, "error": text or null, "seconds": S,
     "median_ms": MS, "gap_ms": MS, "gap_at_s": S}

The gap is the longest wait for an answer, and gap_at_s when it began. A connection that has ended is not made
again: it is what this client is about. Exits 0 when nothing was wrong, else 1.
"""
import argparse
import json
import os
import select
import signal
import socket
import statistics
import sys
import time

VALUE = 4096  # bytes of one key of --fill: random, as a database's are to a compressor
KEY = "count"


class Redis:
    """The protocol as far as it is needed here (RESP2)."""

    def __init__(self, host, port, patience):
        end = time.monotonic() + patience
        while True:  # the redis may be starting
            try:
                self.socket = socket.create_connection((host, port), timeout=patience)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers = self.socket.makefile("rb")

    @staticmethod
    def request(*words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words)

    def answer(self):
        line = self.answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the connection was closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RuntimeError(rest.decode(errors="replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.answers.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.answer() for _ in range(int(rest))]
        return rest

    def __call__(self, *words):
        self.socket.sendall(self.request(*words))
        return self.answer()

    def ready(self):
        """A redis that still loads its data answers with an error that says so."""
        while True:
            try:
                return self("PING")
            except RuntimeError as problem:
                if not str(problem).startswith("LOADING"):
                    raise
                time.sleep(0.05)


def fill(redis, megabytes):
    count = megabytes * 1_000_000 // VALUE
    fsync = redis("CONFIG", "GET", "appendfsync")[1]
    redis("CONFIG", "SET", "appendfsync", "no")  # "always" would be one for every 16 kB here
    for start in range(0, count, 512):
        keys = range(start, min(count, start + 512))
        redis.socket.sendall(b"".join(redis.request("SET", f"fill{k}", os.urandom(VALUE)) for k in keys))
        for _ in keys:
            redis.answer()
    if redis("CONFIG", "GET", "appendonly")[1] == b"no":
        return  # a rewrite would bring all of it to disk
    # As redis does by itself sooner or later: what is written from here on goes into a new, small file.
    redis("BGREWRITEAOF")
    while b"aof_rewrite_in_progress:1" in (info := redis("INFO", "persistence")) or b"rewrite_scheduled:1" in info:
        time.sleep(0.05)
    redis("CONFIG", "SET", "appendfsync", fsync)


def stop_asked(pause):
    """Waits for that many seconds, or until stdin ends."""
    readable, _, _ = select.select([sys.stdin], [], [], pause)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


def talk(redis, options, stop):
    result = {"requests": 0, "wrong": 0, "errors": 0, "resets": 0, "error": None}
    waits, gap, gap_at = [], 0.0, 0.0
    count = redis("INCR", KEY)
    print("ready", flush=True)
    start = time.monotonic()
    try:
        while not stop and not (options.seconds and time.monotonic() - start > options.seconds):
            asked = time.monotonic()
            got = redis("INCR", KEY)
            wait = time.monotonic() - asked
            count += 1
            result["requests"] += 1
            if got != count:
                result["wrong"] += 1
                count = got
            waits.append(wait)
            if wait > gap:
                gap, gap_at = wait, asked - start
            if stop_asked(options.pause / 1000):
                break
        if int(redis("GET", KEY)) != count:
            result["wrong"] += 1
    except (ConnectionResetError, BrokenPipeError) as problem:
        result["resets"] += 1
        result["error"] = str(problem)
    except (OSError, RuntimeError, ValueError) as problem:
        result["errors"] += 1
        result["error"] = str(problem) or type(problem).__name__
    return result | {
        "seconds": round(time.monotonic() - start, 3),
        "median_ms": round(statistics.median(waits) * 1000, 3) if waits else None,
        "gap_ms": round(gap * 1000, 1),
        "gap_at_s": round(gap_at, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("--port", type=int, default=6379)
    parser.add_argument("--fill", type=int, default=0, metavar="MB", help="first write so much random data")
    parser.add_argument("--pause", type=float, default=1, metavar="MS", help="between an answer and the next request (1)")
    parser.add_argument("--seconds", type=float, default=0, help="end by itself after so long")
    parser.add_argument("--patience", type=float, default=60, metavar="S", help="the longest wait of all (60)")
    options = parser.parse_args()
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    try:
        redis = Redis(options.host, options.port, options.patience)
        redis.ready()
        if options.fill:
            fill(redis, options.fill)
    except (OSError, RuntimeError) as problem:
        sys.exit(f"error: no redis answers at {options.host}, port {options.port}: {problem}")
    result = talk(redis, options, stop)
    print(json.dumps(result))
    return 0 if not (result["wrong"] or result["errors"] or result["resets"]) else 1


if __name__ == "__main__":
    sys.exit(main())
