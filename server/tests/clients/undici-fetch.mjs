// node undici-fetch.mjs URL: the stream read with `fetch`, as a client does that must send a token. It comes back by itself.
import { fetch } from "undici";

const say = (said) => console.log(JSON.stringify(said));
const sleep = (millis) => new Promise((done) => setTimeout(done, millis));
let [id, retry, patience] = [null, 1000, 30_000];

async function follow(url) {
  const aborting = new AbortController();
  let timer;
  // Something comes in two heartbeats, or the connection is dead.
  const lives = () => {
    clearTimeout(timer);
    timer = setTimeout(() => aborting.abort(), patience);
  };
  lives();
  try {
    const headers = id === null ? {} : { "Last-Event-ID": id };
    const answer = await fetch(url, { headers, signal: aborting.signal });
    if (!answer.ok) return say({ event: "unavailable", data: await answer.json() });
    let buffer = "";
    for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
      lives();
      buffer += text;
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) {
        const fields = block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(": ") + 2)]);
        const field = (name) => fields.find(([known]) => known === name)?.[1];
        const data = JSON.parse(fields.filter(([name]) => name === "data").map(([, value]) => value).join("\n"));
        id = field("id") ?? id;
        retry = Number(field("retry") ?? retry);
        if (data.heartbeat_seconds) patience = 2000 * data.heartbeat_seconds;
        say({ event: field("event"), id, data });
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

for (;;) {
  await follow(process.argv[2]).catch((error) => say({ event: "error", why: `${error}` }));
  await sleep(retry);
}
