// Follows an event stream with npm's `eventsource`; prints what came, a line of JSON each.
import { EventSource } from "eventsource";

const say = (line) => console.log(JSON.stringify(line));
const events = new EventSource(process.argv[2]);
// While it waits to come back it does not keep node alive; a program that only reads has to.
const alive = setInterval(() => {}, 1000);
const got = (event) => say({ type: event.type, data: JSON.parse(event.data) });
for (const type of ["t", "workflow_complete", "holdfast.gap", "holdfast.reset"]) {
  events.addEventListener(type, got);
}
events.onerror = (error) => {
  if (events.readyState !== EventSource.CLOSED) return;
  say({ closed: error.code });
  clearInterval(alive);
};
