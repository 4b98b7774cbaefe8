// AG-UI's own client reads streams of events: prints what it refuses, and what it warns of.
import { readFileSync } from "node:fs";
import { AbstractAgent } from "@ag-ui/client";
import { from } from "rxjs";

class Told extends AbstractAgent {
  constructor(events) {
    super({ threadId: "t" });
    this.events = events;
  }
  run() {
    return from(this.events);
  }
}

const refused = [];
console.warn = (...said) => refused.push(said.join(" "));
console.error = () => {};
for (const events of JSON.parse(readFileSync(process.argv[2]))) {
  const onRunFailed = ({ error }) => refused.push(error.message);
  const agent = new Told(events);
  await agent.runAgent({ runId: "r" }, { onRunFailed }).catch((error) => refused.push(error.message));
}
console.log(JSON.stringify(refused));
