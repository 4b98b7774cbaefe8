// AG-UI's own client, which checks each event and the order of all: runs the agent, prints what it saw.
import { HttpAgent } from "@ag-ui/client";

const [url, runId] = process.argv.slice(2);
const question = { id: "u", role: "user", content: "What is a holdfast?" };
const agent = new HttpAgent({ url, threadId: "t", initialMessages: [question] });
const events = [];
await agent.runAgent({ runId }, { onEvent: ({ event }) => { events.push(event.type); } });
console.log(JSON.stringify({ events, messages: agent.messages.slice(1) }));
