// Follows the runs of a holdfast server, over Server-Sent Events or WebSocket: every event once and in
// order, through dropped networks, expired tokens and page refreshes. It depends on nothing.
// What each option means is written in holdfast.d.ts.
//
// The one rule: `lastId` is the position after the last event handed to onEvent, in all runs, and every
// connection begins after it. What the page shows and `lastId` therefore have to live equally long; `remember` keeps the
// two together.

const TERMINAL = new Set(["workflow_complete", "workflow_error", "run_stopped", "run_lost"]);
const FIRST_DELAY = 500;
const MAX_RUNS = 100; // a request for more is refused as a whole
const STEADY = 5000; // a connection that lived so long was no failure

// What one connection came to; a number is the least time to wait, an object the refusal.
const END = "end";
const AT_ONCE = -1;

export function follow(address, options = {}) {
  const { transport = "sse", silence = 40000, maxDelay = 30000, remember, credentials } = options;
  const url = new URL(address, globalThis.document?.baseURI ?? globalThis.location?.href);
  // A token in a URL ends up in logs; where there is one, it is sent in a header.
  const inQuery = url.searchParams.getAll("token");
  if (inQuery.length === 1) url.searchParams.delete("token");
  const key = `holdfast:${url.pathname}${url.search}${options.runs ?? ""}`;
  const enveloped = url.pathname.endsWith("/events/stream");
  if (enveloped) url.searchParams.set("envelope", "1");
  const runs = options.runs && new Set(options.runs); // those that are not over
  name();
  const askForToken = options.token ?? inQuery[0];

  let state = "";
  let over = false;
  let lastId = "";
  let token;
  let refusals = 0;
  const doubted = {}; // when a token was last refused for a run
  let failures = 0;
  let heard = 0; // when the connection last gave a sign of life
  let hurry = false;
  let socket;
  let connection = new AbortController();
  let wake = () => {};

  // What a callback throws is the page's own affair, and no reason to lose what follows.
  function tell(name, ...details) {
    try {
      options[name]?.(...details);
    } catch (error) {
      reportError(error);
    }
  }

  function enter(next, detail) {
    if (state === next) return;
    state = next;
    tell("onState", state, detail);
  }

  // -- many runs over one connection

  function name() {
    if (!runs) return;
    url.searchParams.delete("run");
    for (const run of runs) url.searchParams.append("run", run);
  }

  // Says it on the open socket, and otherwise by another connection, which begins where this one ends.
  function change(kind, run) {
    if (over || (kind === "add") === runs.has(run)) return;
    if (kind === "add" && runs.size >= MAX_RUNS) {
      tell("onRunEnd", { kind: "error", run_id: run, code: "TOO_MANY_RUNS" });
      return;
    }
    runs[kind === "add" ? kind : "delete"](run);
    name();
    if (!runs.size) close();
    else if (socket?.readyState === 1) socket.send(JSON.stringify({ kind, run_id: run }));
    else reconnect();
  }

  async function stop(run) {
    const at = new URL(url);
    at.search = "";
    at.pathname = at.pathname.replace(/events\/stream$/, run ? `runs/${encodeURIComponent(run)}/stop` : "stop");
    token ??= await ask();
    const response = await fetch(at, { method: "POST", headers: authorized(), credentials });
    if (!response.ok && response.status !== 409) throw await problem(response);
  }

  // -- one connection

  async function connect() {
    heard = Date.now();
    connection = new AbortController();
    if (token === undefined) {
      token = await ask();
      heard = Date.now();
      connection.signal.throwIfAborted();
    }
    return transport === "ws" ? openSocket() : openStream();
  }

  async function ask() {
    return typeof askForToken === "function" ? askForToken({ refused: refusals > 0 }) : askForToken;
  }

  function authorized() {
    return token ? { authorization: `Bearer ${token}` } : {};
  }

  function request(method) {
    const headers = { accept: "text/event-stream", ...authorized() };
    if (lastId) headers["last-event-id"] = lastId;
    return fetch(url, { method, headers, credentials, cache: "no-store", signal: connection.signal });
  }

  async function openStream() {
    const response = await request("GET");
    if (response.status === 204) return END;
    if (response.status !== 200) return refusal(response);
    if (!/^text\/event-stream/i.test(response.headers.get("content-type"))) {
      connection.abort();
      return { status: 200, code: "NOT_A_STREAM", title: "The answer is no event stream" };
    }
    refusals = 0;
    enter("live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let fields = { data: [] };
    let id;
    let retry = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return retry;
      heard = Date.now();
      // A carriage return at the very end may be half of a line break.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "data") fields.data.push(text);
        else if (field === "event") fields.type = text;
        else if (field === "id") id = text;
        else if (field === "retry") retry = Number(text) || 0;
        else if (line === "") {
          const frame = fields.data.length && frameOf(fields.type || "message", fields.data.join("\n"), id);
          fields = { data: [] };
          if (frame && receive(frame, id)) {
            connection.abort();
            return END;
          }
        }
      }
    }
  }

  function frameOf(type, text, id) {
    let data = text;
    try {
      data = JSON.parse(text);
    } catch {
      // An event stream of somebody else may carry any text.
    }
    return enveloped || type.startsWith("holdfast.") ? data : { kind: "event", id, type, data };
  }

  function openSocket() {
    const at = new URL(url);
    at.protocol = at.protocol.replace("http", "ws");
    at.pathname = at.pathname.replace(/stream$/, "ws");
    at.searchParams.delete("envelope");
    if (token) at.searchParams.set("token", token); // a browser sends no header with a WebSocket
    if (lastId) at.searchParams.set("last_id", lastId);
    return new Promise((resolve) => {
      const opening = new WebSocket(at);
      const { signal } = connection;
      let opened = false;
      socket = opening;
      signal.addEventListener("abort", () => {
        resolve(0);
        opening.close();
      });
      opening.onopen = () => {
        heard = Date.now();
        opened = true;
        refusals = 0;
        enter("live");
      };
      opening.onmessage = ({ data }) => {
        if (signal.aborted) return;
        heard = Date.now();
        if (receive(JSON.parse(data))) {
          resolve(END);
          opening.close();
        }
      };
      opening.onclose = ({ code, reason }) => {
        if (signal.aborted) return;
        // A refused handshake tells a script nothing, and 1008 not why: the same is asked over HTTP.
        // With a reason it was the session that ended, maybe for a new one, which is judged anew.
        resolve(opened && (code !== 1008 || reason) ? closed(code) : request("HEAD").then(refusal));
      };
    });
  }

  function closed(code) {
    if (code === 4404) return { status: 404, code: "RUN_NOT_FOUND", title: "There is no such run" };
    if (code === 4410) return { status: 410, code: "RUN_EXPIRED", title: "The run's events are gone" };
    return code === 1013 ? 5000 : 0;
  }

  async function refusal(response) {
    const { ok, status, headers } = response;
    if ((status === 401 || status === 403) && typeof askForToken === "function" && !refusals++) {
      token = undefined;
      return AT_ONCE;
    }
    if (ok || status >= 500 || [408, 425, 429].includes(status)) return headers.get("retry-after") * 1000 || 0;
    return problem(response);
  }

  async function problem(response) {
    const { code, title } = await response.json().catch(() => ({}));
    return { status: response.status, code, title };
  }

  // True after what ends the last run.
  function receive(frame, id = frame.cursor ?? frame.id) {
    const { kind } = frame;
    if (runs) return receiveOne(frame, id);
    if (kind === "end") return true;
    if (kind === "error" || kind === "denied") return false; // the connection closes next
    return show(frame, id);
  }

  function receiveOne(frame, id) {
    const { kind, run_id: run, code } = frame;
    if (code === "UNAUTHORIZED" && typeof askForToken === "function" && Date.now() - (doubted[run] ?? 0) > STEADY) {
      doubted[run] = Date.now();
      token = undefined;
      refusals++;
      reconnect();
    } else if (kind === "end" || kind === "denied" || (kind === "error" && runs.has(run))) {
      lastId = id ?? lastId;
      if (runs.delete(run)) tell("onRunEnd", frame);
    } else {
      show(frame, id);
    }
    return over || !runs.size;
  }

  function show(frame, id) {
    const { kind } = frame;
    failures = 0;
    if (kind === "event") {
      lastId = id ?? lastId;
      delete doubted[frame.run_id];
      tell("onEvent", frame);
    } else if (kind === "gap") {
      tell("onGap", frame);
    } else if (kind === "reset") {
      if (!runs) lastId = "";
      tell("onReset", frame);
    }
    return over || TERMINAL.has(frame.type);
  }

  // -- one after the other

  async function run() {
    await null; // the caller has the handle before the first callback
    restore();
    while (!over) {
      const begun = Date.now();
      enter("connecting");
      if (over) return; // the page left in its callback
      const result = await connect().catch(() => 0);
      if (over) return;
      if (result === END) return finish("ended");
      if (typeof result === "object") return finish("failed", result);
      if (hurry || result === AT_ONCE) {
        hurry = false;
        continue;
      }
      if (Date.now() - begun > STEADY) failures = 0;
      enter("waiting");
      const backoff = Math.min(maxDelay, FIRST_DELAY * 2 ** failures++) * (0.5 + Math.random() / 2);
      await pause(Math.max(result, backoff));
    }
  }

  function pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  function finish(last, detail) {
    if (over) return;
    over = true;
    connection.abort();
    wake();
    clearInterval(watchdog);
    for (const [target, name, react] of watched) target?.removeEventListener(name, react);
    keep();
    enter(last, detail);
    if (last !== "ended") return;
    for (const run of runs ?? []) tell("onRunEnd", { kind: "end", run_id: run });
    tell("onEnd");
  }

  // -- signs that the connection is dead, which nobody tells it

  function reconnect() {
    if (state !== "waiting") hurry = true;
    connection.abort();
    wake();
  }

  function check() {
    if (state !== "waiting" && Date.now() - heard > silence) reconnect();
  }

  function shown() {
    if (document.hidden) return keep();
    wake();
    check();
  }

  const close = () => finish("closed");
  const watchdog = setInterval(check, Math.min(silence / 4, 5000));
  const watched = [
    [globalThis, "online", reconnect],
    [globalThis, "pagehide", keep],
    [globalThis.document, "visibilitychange", shown],
    [options.signal, "abort", close],
  ];
  for (const [target, name, react] of watched) target?.addEventListener?.(name, react);

  // -- a refresh

  function keep() {
    if (!remember || !lastId) return;
    try {
      const page = typeof remember === "function" ? remember() : undefined;
      sessionStorage.setItem(key, JSON.stringify({ id: lastId, page }));
    } catch (error) {
      reportError(error); // no room, or storage is forbidden: a refresh begins where it did before
    }
  }

  function restore() {
    lastId = options.lastId ?? "";
    if (!remember || options.lastId !== undefined) return;
    let kept;
    try {
      kept = JSON.parse(sessionStorage.getItem(key));
    } catch {
      return;
    }
    if (!kept) return;
    lastId = kept.id ?? "";
    if (kept.page !== undefined) tell("onRestore", kept.page);
  }

  if (options.signal?.aborted) close();
  else run();
  return {
    close,
    reconnect,
    stop,
    add: (run) => change("add", run),
    drop: (run) => change("drop", run),
    get state() {
      return state;
    },
    get lastId() {
      return lastId;
    },
  };
}
