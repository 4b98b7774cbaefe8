// The AI SDK's own transport and reader: asks, is resumed in the middle, and asks what is left.
import { DefaultChatTransport, readUIMessageStream } from "ai";

const [url] = process.argv.slice(2);
let cookie = "";
const transport = new DefaultChatTransport({
  api: `${url}/api/chat`,
  fetch: async (address, init) => {  // what a browser does with cookies
    const response = await fetch(address, { ...init, headers: { ...init.headers, cookie } });
    cookie = response.headers.get("set-cookie")?.split(";")[0] ?? cookie;
    return response;
  },
});
const text = { type: "text", text: "What is a holdfast?" };
const messages = [{ id: "u", role: "user", parts: [text] }];

async function read(stream) {
  let last;
  for await (const message of readUIMessageStream({ stream, terminateOnError: true }))
    last = structuredClone(message);
  return last;
}

const chatId = "chat";
const asked = await transport.sendMessages({ chatId, messages, trigger: "submit-message" });
const resumed = await transport.reconnectToStream({ chatId });
const [first, second] = await Promise.all([read(asked), read(resumed)]);
const left = await transport.reconnectToStream({ chatId });
console.log(JSON.stringify({ first, second, left }));
