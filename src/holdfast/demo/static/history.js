// Reads the log of a run page by page over REST, as far as somebody scrolls.

import { ask } from "./api.js";
import { element } from "./dom.js";

const PAGE = 50;

export class History {
  #rows;
  #more;
  #caption;
  #next = null;
  #read = 0;
  #asking = false;
  #run = null;

  constructor({ rows, more, caption }) {
    [this.#rows, this.#more, this.#caption] = [rows, more, caption];
    more.addEventListener("click", () => this.#page());
    // The button is the keyboard's way; a scroll that reaches it does the same.
    new IntersectionObserver(([seen]) => seen.isIntersecting && this.#read > 0 && this.#page()).observe(more);
  }

  /** Start again, from the first event of a run; `token` is an async function. */
  async show(runId, token) {
    this.#run = { runId, token };
    this.#next = "0";
    this.#read = 0;
    this.#rows.replaceChildren();
    await this.#page();
  }

  async #page() {
    if (this.#asking || this.#next === null) return;
    this.#asking = true;
    const run = this.#run;
    try {
      const query = new URLSearchParams({ start_id: this.#next, limit: PAGE });
      const headers = { Authorization: `Bearer ${await run.token()}` }; // in the address, logs would have it
      const page = await ask(`streams/runs/${encodeURIComponent(run.runId)}/events?${query}`, { headers });
      if (run === this.#run) this.#add(page);
    } catch (error) {
      this.#caption.textContent = `The history cannot be read now: ${error.message}`;
    } finally {
      this.#asking = false;
    }
    if (run !== this.#run) await this.#page();
  }

  #add({ events, next_id: next, status }) {
    this.#rows.append(...events.map((event) => row(event, new Date(event.created_at).toISOString().slice(11, 23))));
    this.#read += events.length;
    this.#next = next;
    this.#more.hidden = next === null;
    const rest = next === null ? (status === "open" ? "that is all so far" : "that is all") : "scroll for more";
    this.#caption.textContent = `${this.#read} events read over REST, ${PAGE} a page: ${rest}.`;
  }
}

/** A table row for one event; `last` is the text of its last cell. */
export function row(event, last) {
  const { n, ...rest } = event.data ?? {};
  const number = numberOf(event);
  const shown = rest.text ?? JSON.stringify(rest.output ?? rest);
  return element(
    "tr",
    { data: { n: number } },
    element("td", { className: "no" }, String(number)),
    element("td", {}, element("code", {}, event.type)),
    element("td", { className: "data" }, shown),
    element("td", { className: "id mono" }, last),
  );
}

/** The number that the agent gave an event; "" where somebody else wrote it. */
export function numberOf({ data }) {
  return data?.n ?? data?.output?.n ?? "";
}
