"""A relay in front of a server that passes every answer on a given time late: `relay.py PORT MILLISECONDS`.

It prints its own port and runs until its standard input is closed. It passes bytes and knows nothing of HTTP, so that
it takes a small part of what a server does for a request: the proxy of the tests, which makes a connection for every
request to be able to break it, would be what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import suppress

HOST = "127.0.0.1"
READ_BYTES = 1 << 18


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Bytes from one side to the other, each `seconds` after it came, in order; then the end."""
    loop = asyncio.get_running_loop()
    late: deque[bytes] = deque()

    def write() -> None:
        if data := late.popleft():
            writer.write(data)
        else:
            writer.close()

    with suppress(ConnectionError):
        while data := await reader.read(READ_BYTES):
            if seconds:
                late.append(data)
                loop.call_later(seconds, write)
            else:
                writer.write(data)
                await writer.drain()
    late.append(b"")
    loop.call_later(seconds, write)


async def serve(port: int, seconds: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection(HOST, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, to_server, 0), pass_on(from_server, writer, seconds))

    server = await asyncio.start_server(connected, HOST, 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
