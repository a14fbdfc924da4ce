// node ws.mjs URL [close | long | utf8 | unmasked]: the npm package `ws`. It comes back by itself, unless it breaks a rule.
import WebSocket from "ws";

const [, , url, does] = process.argv;
const say = (said) => console.log(JSON.stringify(said));
let [id, retry, patience] = [null, 1000, 30_000];

const breaks = {
  close: (socket) => socket.close(1000, "done"),
  long: (socket) => socket.send("x".repeat(10_000_000)),
  utf8: (socket) => socket.send(Buffer.from([0xff, 0xfe]), { binary: false }),
  unmasked: (socket) => socket.send("hello", { mask: false }),
};

function follow() {
  const socket = new WebSocket(id === null ? url : `${url}?resume=${id}`);
  let timer;
  // A message or a ping comes in two heartbeats, or the connection is dead.
  const lives = () => {
    clearTimeout(timer);
    timer = setTimeout(() => socket.terminate(), patience);
  };
  lives();
  socket.on("ping", lives);
  socket.on("message", (text) => {
    const message = JSON.parse(text);
    id = message.id ?? id;
    if (message.event === "heartbeat") {
      patience = 2000 * message.data.heartbeat_seconds;
      retry = message.data.retry_millis;
    }
    lives();
    say(message);
    if (message.event === "heartbeat") breaks[does]?.(socket);
  });
  socket.on("error", (error) => say({ event: "error", why: `${error}` }));
  socket.on("close", (code, reason) => {
    clearTimeout(timer);
    say({ event: "close", code, reason: `${reason}` });
    if (!does) setTimeout(follow, retry);
  });
}

follow();
