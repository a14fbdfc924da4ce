"""python httpx_sse_client.py URL: the package `httpx-sse`. It comes back by itself."""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse


def say(said):
    print(json.dumps(said), flush=True)


last, retry, patience = "", 1.0, 30.0
with httpx.Client() as client:
    while True:
        try:
            headers = {"Last-Event-ID": last} if last else {}
            # Something comes in two heartbeats, or the connection is dead.
            with connect_sse(client, "GET", sys.argv[1], headers=headers, timeout=patience) as source:
                for event in source.iter_sse():
                    last = event.id or last
                    retry = event.retry / 1000 if event.retry is not None else retry
                    data = json.loads(event.data) if event.data else None
                    if event.event == "heartbeat":
                        patience = 2 * data["heartbeat_seconds"]
                    say({"event": event.event, "id": event.id, "data": data})
        except httpx.HTTPError as error:
            say({"event": "error", "why": repr(error)})
        time.sleep(retry)
