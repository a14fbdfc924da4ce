// node eventsource.mjs URL: the npm package `eventsource`.
import { EventSource } from "eventsource";
import { watch } from "./sources.mjs";

watch(EventSource, process.argv[2], (said) => console.log(JSON.stringify(said)));
