// What every `EventSource` is watched with, in Node and in a browser: each event is said as one object.

export function watch(EventSource, url, say) {
  const source = new EventSource(url);
  // An event without a name: there is none.
  source.onmessage = (event) => say({ event: "message", id: event.lastEventId });
  source.onerror = () => say({ event: "error", for_good: source.readyState === 2 });
  for (const name of ["changes", "heartbeat", "resync", "stopping", "unavailable"]) {
    source.addEventListener(name, (event) => {
      if (name === "resync") source.close();
      say({ event: name, id: event.lastEventId, data: JSON.parse(event.data) });
    });
  }
  return source;
}
