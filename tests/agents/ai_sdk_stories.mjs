// The AI SDK's own transport and reader read streams of chunks: prints what they refuse.
import { readFileSync } from "node:fs";
import { DefaultChatTransport, readUIMessageStream } from "ai";

const refused = [];
for (const chunks of JSON.parse(readFileSync(process.argv[2]))) {
  const told = new Set(chunks.map((chunk) => chunk.errorText));
  const lines = chunks.map((chunk) => `data: ${typeof chunk === "string" ? chunk : JSON.stringify(chunk)}\n\n`);
  const headers = { "content-type": "text/event-stream" };
  const fetch = async () => new Response(lines.join(""), { headers });
  const onError = (error) => told.has(error.message) || refused.push(error.message);
  const asked = { chatId: "c", messages: [], trigger: "submit-message" };
  try {
    const stream = await new DefaultChatTransport({ fetch }).sendMessages(asked);
    for await (const _ of readUIMessageStream({ stream, onError }));
  } catch (error) {
    onError(error);
  }
}
console.log(JSON.stringify(refused));
