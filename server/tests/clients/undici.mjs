// node undici.mjs URL: the `EventSource` of undici.
import { EventSource } from "undici";
import { watch } from "./sources.mjs";

watch(EventSource, process.argv[2], (said) => console.log(JSON.stringify(said)));

// Its wait before it comes back does not keep the process alive.
setInterval(() => {}, 1 << 30);
