// Follows one run over Server-Sent Events or WebSocket and never shows an event twice or skips one.
// This file is made to be copied: it needs nothing else of this page.
//
//   const stream = new RunStream({
//     base: "streams/",                      // where EventStreamApp is mounted
//     runId: "…",
//     token: async () => "…",                // asked before each connection we open; throw { status: 401 } to end
//     transport: "sse",                      // or "ws"
//     onFrame: (frame) => …,                 // { kind: "event" | "gap" | "reset", id, type, data, … }
//     onState: (state, why) => …,            // see below
//   });
//   stream.open();
//
// The one rule: `lastId` is the id of the last event handed to onFrame, and lives exactly as long as what
// was shown. A reconnect passes it on and gets what follows. A page refresh throws both away and starts
// from the beginning; a page that keeps what it showed passes the `lastId` that it kept beside it.
//
// States: connecting · live · waiting (lost, coming back) · cut (on purpose, coming back) · ended · failed

const TERMINAL = new Set(["workflow_complete", "workflow_error", "run_stopped", "run_lost"]);
const SILENCE_MS = 8000; // heartbeats are invisible to scripts, so a silent connection is asked about
const ASK_TIMEOUT_MS = 4000;
const CONNECT_TIMEOUT_MS = 6000;
const WAIT_S = 4; // how long the server may keep us waiting for a run that nobody has started yet

export class RunStream {
  #options;
  #connection = null;
  #attempt = 0; // what belongs to an older attempt is ignored
  #failures = 0;
  #timer = 0;
  #token = "";

  constructor(options) {
    this.#options = { transport: "sse", ...options };
    this.lastId = options.lastId ?? "";
    this.state = "closed";
  }

  /** Connect, after lastId. */
  async open() {
    this.close();
    const attempt = this.#attempt;
    this.#enter("connecting");
    try {
      this.#token = await this.#options.token();
    } catch (error) {
      if (attempt === this.#attempt) error.status ? this.#fail(error.status) : this.#comeBack();
      return;
    }
    if (attempt !== this.#attempt) return;
    this.#connection = this.#options.transport === "ws" ? this.#socket() : this.#source();
    // A black hole answers nothing at all, and a browser would wait for minutes.
    this.#after(CONNECT_TIMEOUT_MS, () => this.#comeBack());
  }

  /** Leave for good. The run goes on without us. */
  close() {
    this.#attempt += 1;
    clearTimeout(this.#timer);
    this.#connection?.close();
    this.#connection = null;
    this.state = "closed";
  }

  /** Drop the connection as a dead network would, and come back after so many milliseconds. */
  cut(milliseconds) {
    this.close();
    this.#enter("cut");
    this.#after(milliseconds, () => this.open());
  }

  #source() {
    // envelope=1: every event arrives as a "message" that holds the whole frame, whatever its type.
    const source = new EventSource(this.#url("events/stream", { envelope: "1", wait: WAIT_S }));
    source.onopen = () => this.#opened();
    source.onmessage = (message) => this.#receive(JSON.parse(message.data), message.lastEventId);
    source.onerror = () => {
      if (source.readyState === EventSource.CONNECTING) {
        // The browser comes back by itself, and sends Last-Event-ID. We only look whether it manages to.
        this.#enter("waiting");
        this.#after(CONNECT_TIMEOUT_MS, () => this.open());
      } else {
        // Any answer but 200 makes it give up for good. 204 says that nothing can follow; the rest is asked.
        this.#askWhy();
      }
    };
    return source;
  }

  #socket() {
    const url = this.#url("events/ws", { wait: WAIT_S });
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.onopen = () => this.#opened();
    socket.onmessage = (message) => this.#receive(JSON.parse(message.data));
    socket.onclose = (event) => {
      if (this.#connection !== socket) return;
      if (event.code === 1000) this.#finish();
      else this.#askWhy();
    };
    return socket;
  }

  #opened() {
    this.#enter("live");
    this.#after(SILENCE_MS, () => this.#askWhetherBehind());
  }

  #receive(frame, cursor = frame.id) {
    if (frame.kind === "end") return this.#finish();
    if (frame.kind === "error") return; // the connection closes next, and then we ask why
    if (frame.kind === "reset") this.lastId = ""; // another life of the run: nothing shown belongs to it
    if (frame.kind === "event") this.lastId = cursor || frame.id;
    this.#failures = 0;
    this.#after(SILENCE_MS, () => this.#askWhetherBehind());
    this.#options.onFrame(frame);
    if (TERMINAL.has(frame.type)) this.#finish();
  }

  // The connection was refused or dropped: ask over REST whether it is worth coming back.
  async #askWhy() {
    const attempt = this.#attempt;
    this.#drop();
    const answer = await this.#ask();
    if (attempt !== this.#attempt) return;
    if (answer.over) this.#finish();
    else if (answer.status === 410) this.#fail(410);
    // Nobody may have started the run yet, so it gets a few tries. All else is worth coming back for:
    // a token that ran out is renewed, and a server that is away returns.
    else if (answer.status === 404 && this.#failures >= 3) this.#fail(404);
    else this.#comeBack();
  }

  // Silence is either a quiet run or a connection that died without a word.
  async #askWhetherBehind() {
    const attempt = this.#attempt;
    const answer = await this.#ask();
    if (attempt !== this.#attempt || this.state !== "live") return;
    if (answer.status === 0 || answer.behind) this.#comeBack();
    else this.#after(SILENCE_MS, () => this.#askWhetherBehind());
  }

  async #ask() {
    const from = this.lastId;
    const url = this.#url("events", { start_id: from, limit: "2" });
    url.searchParams.delete("last_id");
    try {
      const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(ASK_TIMEOUT_MS) });
      if (!response.ok) return { status: response.status };
      const page = await response.json();
      const behind = page.events.some((event) => event.id !== from);
      return { status: 200, behind, over: page.status === "ended" && !behind };
    } catch {
      return { status: 0 };
    }
  }

  // Come back after a delay that doubles up to 5 s, with jitter: a restarted server is not stormed.
  #comeBack() {
    this.#drop();
    this.#failures += 1;
    this.#enter("waiting");
    const delay = Math.min(5000, 250 * 2 ** this.#failures);
    this.#after(delay * (0.5 + Math.random() / 2), () => this.open());
  }

  #finish() {
    this.close();
    this.#enter("ended");
  }

  #fail(status) {
    this.close();
    this.#enter("failed", status);
  }

  #drop() {
    clearTimeout(this.#timer);
    const connection = this.#connection;
    this.#connection = null;
    connection?.close();
  }

  #after(milliseconds, act) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(act, milliseconds);
  }

  #enter(state, why) {
    this.state = state;
    this.#options.onState(state, why);
  }

  #url(path, query = {}) {
    const run = encodeURIComponent(this.#options.runId);
    const url = new URL(`${this.#options.base}runs/${run}/${path}`, document.baseURI);
    const all = { token: this.#token, ...(this.lastId && { last_id: this.lastId }), ...query };
    for (const [name, value] of Object.entries(all)) url.searchParams.set(name, value);
    return url;
  }
}
