// node fetch-event-source.cjs URL: the npm package `@microsoft/fetch-event-source`.
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = require("@microsoft/fetch-event-source");

const say = (said) => console.log(JSON.stringify(said));

fetchEventSource(process.argv[2], {
  openWhenHidden: true,
  onmessage({ event, id, data }) {
    say({ event: event || "message", id, data: JSON.parse(data || "null") });
  },
  // It takes a stream that ends in order for one that is over, unless it is told otherwise.
  onclose() {
    throw new Error("the stream ended");
  },
  onerror(error) {
    say({ event: "error", why: `${error}` });
  },
});
