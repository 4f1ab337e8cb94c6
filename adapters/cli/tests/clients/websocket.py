"""Speaks to an echo server with the package `websockets`: websocket.py ws://HOST:PORT/ws"""

import asyncio
import sys

import websockets

MANY = 1000
LARGE = 4 * 1024 * 1024


async def echoes(url):
    async with websockets.connect(url, max_size=2 * LARGE) as socket:
        for message in ["plain", "\u00e4\u20ac\U0001f600", b"", b"\x00" * 125, b"x" * 126, b"y" * 65536, b"z" * LARGE]:
            await socket.send(message)
            assert await socket.recv() == message, f"{len(message)} bytes came back changed"
        # A message in several frames.
        await socket.send(["one ", "message ", "in parts"])
        assert await socket.recv() == "one message in parts"
        await (await socket.ping())
    assert socket.close_code == 1000, socket.close_code


async def half_close(url):
    """Ends its side of the connection, and is still answered."""
    socket = await websockets.connect(url)
    await socket.send("last words")
    socket.transport.write_eof()
    assert await socket.recv() == "last words"
    await socket.wait_closed()


async def many(url):
    sockets = await asyncio.gather(*(websockets.connect(url, open_timeout=60) for _ in range(MANY)))
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
    answers = await asyncio.gather(*(socket.recv() for socket in sockets))
    assert answers == [str(number) for number in range(MANY)]
    await asyncio.gather(*(socket.close() for socket in sockets))


async def main():
    url = sys.argv[1]
    await echoes(url)
    await half_close(url)
    await many(url)
    print("ok")


asyncio.run(asyncio.wait_for(main(), 120))
