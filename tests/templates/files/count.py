"""For each line that comes in, its number, how often the clock has ticked, and the sum of all lengths so far."""
import asyncio
import threading
import time

ticks, count, total, kept = 0, 0, 0, []


def tick():
    global ticks
    while True:
        time.sleep(0.05)
        ticks += 1


async def talk(reader, writer):
    global count, total
    while line := await reader.readline():
        count, total = count + 1, total + len(line.strip())
        kept.append([line] * 1000)
        writer.write(b"%d %d %d\n" % (count, ticks, total))
        await writer.drain()


async def main():
    threading.Thread(target=tick, daemon=True).start()
    await (await asyncio.start_server(talk, "0.0.0.0", 7104)).serve_forever()


asyncio.run(main())
