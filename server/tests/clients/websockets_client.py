"""python websockets_client.py URL [close | long | text]: the package `websockets`, with its defaults. It comes back by itself."""

import asyncio
import json
import sys

import websockets
from websockets.asyncio.client import connect


def say(said):
    print(json.dumps(said), flush=True)


async def follow(url, does):
    last, retry, patience = None, 1.0, 30.0
    while True:
        try:
            async with connect(f"{url}?resume={last}" if last else url) as socket:
                try:
                    while True:
                        # A message comes in two heartbeats, or the connection is dead.
                        text = await asyncio.wait_for(socket.recv(), patience)
                        message = json.loads(text)
                        last = message.get("id", last)
                        if message["event"] == "heartbeat":
                            patience = 2 * message["data"]["heartbeat_seconds"]
                            retry = message["data"]["retry_millis"] / 1000
                        say(message | ({"length": len(text)} if does == "text" else {}))
                        if does == "close":
                            await socket.close(1000, "done")
                        if does == "long":
                            await socket.send("x" * 10_000_000)
                except websockets.ConnectionClosed as closed:
                    code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
                    say({"event": "close", "code": code, "reason": reason})
        except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
            say({"event": "error", "why": repr(error)})
        if does in ("close", "long"):
            return
        await asyncio.sleep(retry)


asyncio.run(follow(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
