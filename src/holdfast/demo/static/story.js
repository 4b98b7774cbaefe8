// Turns the events of a run into something to read: steps, thoughts, tool calls, the answer.

import { element } from "./dom.js";

export class Story {
  #root;
  #open = null; // the block that the next piece of the same kind continues
  #calls = new Map();

  constructor(root) {
    this.#root = root;
  }

  clear() {
    this.#root.replaceChildren();
    this.#open = null;
    this.#calls.clear();
  }

  /** Show one event; `number` is its number, `mark` says what happened to the connection just before it. */
  add({ type, data }, number, mark) {
    if (mark) this.#mark(mark);
    const show = this.#shows[type];
    if (show) show(data, number);
  }

  #shows = {
    run_started: (data, n) => this.#block("note", n, `The agent began: ${data.task}`),
    node_started: (data, n) => this.#block("step", n, data.node),
    thinking: (data, n) => this.#append("thinking", "Thinking", data.text, n),
    token: (data, n) => this.#append("answer", "", data.text, n),
    tool_call: (data, n) => this.#call(data, n),
    tool_result: (data, n) => this.#result(data, n),
    workflow_complete: (data, n) => this.#block("end", n, `Complete: ${n} events in ${data.output.seconds} s`),
    workflow_error: (data, n) => this.#end("wrong", n, `The run failed: ${reason(data.error)}`),
    run_stopped: (_, n) => this.#end("stopped", n, "The run was stopped."),
    run_lost: (_, n) => this.#end("wrong", n, "The process that worked on this run died, and the run with it."),
  };

  /** The end of a run that did not come to its own. */
  #end(how, number, text) {
    for (const { result } of this.#calls.values()) leave(result);
    this.#block(`end ${how}`, number, text);
  }

  #block(kind, number, text) {
    this.#open = null;
    const block = element("div", { className: `block ${kind}` }, margin(number), element("p", {}, text));
    this.#root.append(block);
    return block;
  }

  #append(kind, label, text, number) {
    if (this.#open?.kind !== kind) {
      const body = element("p", { className: "flow" });
      const block = element("div", { className: `block ${kind}` }, margin(number));
      if (label) block.append(element("p", { className: "label" }, label));
      block.append(body);
      this.#root.append(block);
      this.#open = { kind, body, numbers: block.firstChild, first: number };
    }
    this.#open.body.append(text);
    if (number > this.#open.first) this.#open.numbers.textContent = `${this.#open.first}–${number}`;
  }

  #call({ call, tool, arguments: args }, number) {
    this.#open = null;
    const written = Object.entries(args).map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ");
    const result = element("p", { className: "result waiting" }, "working");
    const block = element(
      "div",
      { className: "block tool" },
      margin(number),
      element("p", { className: "call" }, element("b", {}, tool), `(${written})`),
      result,
    );
    this.#calls.set(call, { result, numbers: block.firstChild, number });
    this.#root.append(block);
  }

  #result({ call, result, seconds }, number) {
    const made = this.#calls.get(call);
    if (!made) return;
    made.result.className = "result";
    made.result.replaceChildren(result, element("span", { className: "took" }, ` ${seconds} s`));
    made.numbers.textContent = `${made.number}–${number}`;
  }

  #mark(why) {
    const mark = element("span", { className: "mark", title: why }, element("span", { className: "visually-hidden" }, ` (${why}) `));
    if (this.#open) this.#open.body.append(mark);
    else this.#root.lastElementChild?.lastElementChild?.append(mark);
  }
}

/** Why a run failed. A cancelled task says nothing: its server was stopped. */
function reason(error) {
  if (error?.message) return error.message;
  return error?.type === "CancelledError" ? "its server was stopped" : "no reason was given";
}

/** A call that still waits will never be answered. */
function leave(result) {
  if (!result.classList.contains("waiting")) return;
  result.className = "result";
  result.textContent = "no answer came";
}

function margin(number) {
  return element("span", { className: "margin" }, number ? String(number) : "");
}
