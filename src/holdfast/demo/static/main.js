// The page: who is logged in, which run is shown, and what is known about both. What follows a run and never
// loses an event is holdfast.js, served where the streams are; here it is only put on the screen.

import { follow } from "../streams/holdfast.js";
import { ask } from "./api.js";
import { $, element } from "./dom.js";
import { History, numberOf, row } from "./history.js";
import { Ledger } from "./ledger.js";
import { Story } from "./story.js";

const REFRESH_MS = 5000;
const CUT_MS = 3000;
// Longer than a stream's heartbeats are apart, so that only a dead connection is silent for so long.
const SILENCE_MS = 20000;
const LONGEST_DELAY_MS = 5000; // somebody is looking
const STATES = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Connection lost, coming back",
  cut: "Cut, back in 3 s",
  ended: "Complete",
  failed: "Not available",
};
const ENDINGS = { workflow_error: "Failed", run_stopped: "Stopped", run_lost: "Lost" };
const FAILURES = {
  401: "Your login ended, so this run can no longer be read. Log in again.",
  403: "This run may not be read by you.",
  404: "The server knows no such run (one kept in memory ends with its process), or this session did not start it.",
  410: "This run ended some time ago, and its events are no longer kept.",
};

const story = new Story($("story"));
const history = new History({ rows: $("history-rows"), more: $("more"), caption: $("history-caption") });
let session = null;
let shown = null; // the run on the screen, see show()
let scrolling = true; // with what comes

// --- The run on the screen ------------------------------------------------------------------------------

function show(runId) {
  if (shown?.runId === runId) return;
  leave();
  shown = runId ? { runId, ledger: new Ledger(), memory: remember(runId), state: "", why: "", ending: "" } : null;
  clear();
  $("run-id").textContent = runId || "No run yet";
  $("run-title").textContent = titleOf(runId);
  $("intro").hidden = Boolean(runId);
  $("views").hidden = $("run-tools").hidden = !runId;
  showRuns();
  if (!shown) return;
  choose("story");
  // What was on the screen before a refresh is gone, so the stream begins at the beginning. Where the refresh
  // fell is remembered only to be shown.
  if (shown.memory.last > 0 && !shown.memory.over) note("page refreshed", shown.memory.last);
  connect();
}

function connect() {
  const run = shown;
  const lastId = run.stream?.lastId;
  leave();
  run.stream = follow(`streams/runs/${encodeURIComponent(run.runId)}/events/stream`, {
    transport: transport(),
    token: () => tokenOf(run.runId).catch((error) => refuse(run, error)),
    lastId,
    silence: SILENCE_MS,
    maxDelay: LONGEST_DELAY_MS,
    onEvent: receive,
    onReset: startAgain,
    onGap: (gap) => tell(`Events before ${gap.earliest} are no longer kept.`),
    onState: (state, refusal) => state !== "closed" && showState(state, refusal?.status),
  });
}

/** Leave the connection for good. The run goes on without us. */
function leave() {
  clearTimeout(shown?.timer);
  shown?.stream?.close();
}

/** There is no token: either never will be, or the server does not answer now and is asked again. */
function refuse(run, error) {
  if (run === shown && error.status >= 400 && error.status < 500) {
    leave();
    showState("failed", error.status);
  }
  throw error;
}

function startAgain() {
  shown.ledger = new Ledger();
  clear();
  say("The run began anew on the server; what was shown belongs to its earlier life.");
}

function receive(event) {
  const before = shown.ledger.last;
  const number = numberOf(event);
  const mark = shown.memory.marks[before];
  shown.ending = ENDINGS[event.type] ?? "";
  if (number) shown.ledger.add(number, event.type === "workflow_complete");
  story.add(event, number, mark);
  $("log-rows").append(row(event, event.id));
  $("tape").append(element("i", { title: mark ?? "", data: { type: event.type, ...(mark && { mark }) } }));
  if (shown.ledger.last > shown.memory.last) keep({ last: shown.ledger.last });
  if (event.type === "tool_call" && shown.state === "live") say(`The agent calls ${event.data.tool}.`);
  later(showDelivery);
}

function showState(next, status) {
  // Who was connected and connects again has lost something, however soon the next try comes.
  const again = shown.state === "waiting" || (shown.state === "live" && !shown.why);
  const state = next === "connecting" && again ? "waiting" : next;
  shown.state = state;
  $("state").dataset.state = state;
  $("state-text").textContent = (state === "ended" && shown.ending) || STATES[state];
  $("story").dataset.state = state;
  $("cut").disabled = state !== "live";
  showStop();
  if (state === "waiting") shown.why ||= "connection lost";
  if (state === "live" && shown.why) {
    note(shown.why, shown.ledger.last);
    say(`Connected again, after event ${shown.ledger.last}.`);
    shown.why = "";
  }
  if (state === "ended") {
    keep({ over: true });
    say(`The run is over. ${shown.ledger}`);
  }
  if (state === "failed") tell(FAILURES[status] ?? "The server refuses this run.");
  later(showDelivery);
}

function setStopping(run, asked) {
  run.stopping = asked;
  if (run === shown) showStop();
}

/** The button keeps the focus while the run is being stopped, and hands it on once there is nothing to stop. */
function showStop() {
  const over = ["ended", "failed"].includes(shown.state);
  const asked = Boolean(shown.stopping && !over);
  $("stop-text").textContent = asked ? "Stopping…" : "Stop the run";
  $("stop").setAttribute("aria-disabled", String(asked));
  if (over && document.activeElement === $("stop")) $("run-title").focus();
  $("stop").disabled = over;
}

function showDelivery() {
  if (!shown) return;
  const { ledger, memory } = shown;
  showVerdict(ledger);
  const marks = Object.entries(memory.marks).filter(([after]) => Number(after) <= ledger.last);
  $("joins").replaceChildren(
    ...marks.map(([after, why]) => element("li", {}, element("b", {}, `after ${after}`), ` ${why}`)),
  );
  if (!scrolling) return;
  for (const panel of [$("story"), $("log")]) if (!panel.hidden) panel.scrollTop = panel.scrollHeight;
}

function showVerdict(ledger) {
  [$("fact").textContent, $("verdict").textContent] = ledger.words;
  $("delivery").dataset.verdict = ledger.last === 0 ? "none" : ledger.sound ? "sound" : "broken";
}

function clear() {
  story.clear();
  for (const id of ["log-rows", "history-rows", "tape", "joins"]) $(id).replaceChildren();
  showVerdict(new Ledger());
  $("notice").hidden = true;
  scroll(true);
}

// --- What a refresh should not forget (this tab's own, gone with it) ------------------------------------

function remember(runId) {
  const kept = JSON.parse(sessionStorage.getItem(`holdfast:${runId}`) ?? "{}");
  return { last: 0, over: false, marks: {}, ...kept };
}

function keep(change) {
  Object.assign(shown.memory, change);
  sessionStorage.setItem(`holdfast:${shown.runId}`, JSON.stringify(shown.memory));
}

function note(why, after) {
  if (after > 0) keep({ marks: { ...shown.memory.marks, [after]: why } });
}

// --- Session, runs, link --------------------------------------------------------------------------------

async function refresh() {
  const [mine, link] = await Promise.allSettled([ask("api/session"), ask("streams/readyz")]);
  if (mine.status === "fulfilled") showSession(mine.value);
  $("process").textContent = mine.status === "fulfilled" ? `process ${mine.value.process}` : "nobody: the server is away";
  showLink(link);
}

function showSession(now) {
  // Unavailable is not absent: while the session cannot be seen, nobody has logged out.
  if (!now.available) return tell("Your session cannot be reached just now. You are still logged in.");
  const changed = session?.user !== now.user;
  const ended = session?.user && !now.user;
  session = now;
  $("session-store").textContent = now.degraded ? `${now.store}: this process's copy, for now` : now.store;
  $("session-id").textContent = now.id_hash ? `${now.id_hash.slice(0, 12)}…` : "none yet";
  $("session-created").textContent = time(now.created_at);
  $("session-expires").textContent = time(now.expires_at);
  $("session-data").textContent = JSON.stringify(now.data, null, 2);
  if (changed) showPerson();
  if (ended) tell("Your session has ended on the server. One that is kept in memory ends with its process.");
  showRuns();
  return undefined;
}

function showLink({ status, value, reason }) {
  const report = status === "fulfilled" ? value : reason.json;
  $("redis").textContent = LINK[report?.redis] ?? report?.redis ?? "unknown: the server is away";
  $("redis").dataset.link = report?.redis ?? "unknown";
}

const LINK = { off: "not used: set HOLDFAST_REDIS_URL", up: "up", down: "down: this process carries on" };

function showPerson() {
  const inside = Boolean(session.user);
  $("user").textContent = session.user ?? "";
  $("account").hidden = $("desk").hidden = !inside;
  $("welcome").hidden = inside;
  document.body.classList.toggle("inside", inside);
  if (!inside) {
    show(null);
    $("name").focus();
    return;
  }
  $("tasks").replaceChildren(
    ...Object.entries(session.tasks).map(([name, title]) =>
      element("button", { className: "task", type: "submit", name: "task", value: name }, title),
    ),
  );
  showHash();
}

function runs() {
  const mine = Object.entries(session?.data ?? {}).filter(([key]) => key.startsWith("run:"));
  return mine
    .map(([key, run]) => ({ runId: key.slice(4), title: session.tasks[run.task], startedAt: run.started_at * 1000 }))
    .sort((a, b) => b.startedAt - a.startedAt);
}

function showRuns() {
  const list = runs();
  $("no-runs").hidden = list.length > 0;
  const focused = document.activeElement?.getAttribute("href");
  $("runs").replaceChildren(
    ...list.map(({ runId, title, startedAt }) => {
      const link = element("a", { href: `#${runId}` }, element("span", {}, title), element("time", {}, time(startedAt)));
      if (runId === shown?.runId) link.setAttribute("aria-current", "true");
      return element("li", {}, link);
    }),
  );
  if (focused?.startsWith("#demo-")) $("runs").querySelector(`a[href="${focused}"]`)?.focus();
}

function titleOf(runId) {
  return runs().find((run) => run.runId === runId)?.title ?? (runId ? "A run" : "Ask the agent something");
}

function showHash() {
  if (!session?.user) return;
  show(location.hash.slice(1) || runs()[0]?.runId || null);
}

async function tokenOf(runId) {
  return (await ask(`api/runs/${encodeURIComponent(runId)}/token`)).token;
}

// --- Small things ---------------------------------------------------------------------------------------

function transport() {
  return document.querySelector("input[name=transport]:checked").value;
}

function time(moment) {
  return moment ? new Date(moment).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "not yet";
}

/** Tell a screen reader, sparingly: states and tool calls, never tokens. */
function say(text) {
  $("announce").textContent = text;
}

function tell(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
}

const due = new Set();
/** Do it once before the next paint, however many events arrive until then. */
function later(act) {
  if (due.has(act)) return;
  due.add(act);
  // A hidden tab paints nothing, but its numbers should be right when somebody looks.
  const run = () => due.delete(act) && act();
  if (document.hidden) setTimeout(run, 200);
  else requestAnimationFrame(run);
}

function scroll(on) {
  scrolling = on;
  $("follow").hidden = on;
}

function choose(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
  }
  scroll(true);
  later(showDelivery);
  if (name === "history") history.show(shown.runId, () => tokenOf(shown.runId));
}

async function attempt(act) {
  $("notice").hidden = true;
  try {
    await act();
  } catch (error) {
    const words = error.message ?? error.title ?? "The server refused it.";
    tell(error.status ? words : "The server did not answer. Nothing was lost; try again.");
  }
}

// --- What people do -------------------------------------------------------------------------------------

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => showSession(await ask("api/login", { body: { name: $("name").value } })));
});

$("logout").addEventListener("click", () =>
  attempt(async () => {
    await ask("api/logout", { body: {} });
    window.history.replaceState(null, "", location.pathname + location.search);
    sessionStorage.clear();
    session = null;
    await refresh();
  }),
);

$("start").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const asked = new URLSearchParams(location.search);
    const body = { task: event.submitter.value };
    for (const name of ["speed", "rounds"]) if (asked.has(name)) body[name] = Number(asked.get(name));
    const { run_id: runId } = await ask("api/runs", { body });
    await refresh();
    location.hash = runId;
    $("run-title").focus();
  });
});

$("cut").addEventListener("click", () => {
  shown.why = "network cut for 3 s";
  leave();
  showState("cut");
  shown.timer = setTimeout(connect, CUT_MS);
});

$("stop").addEventListener("click", () => {
  const run = shown;
  if (run.stopping) return;
  setStopping(run, true);
  attempt(async () => {
    try {
      await run.stream.stop();
    } catch (error) {
      setStopping(run, false);
      throw error;
    }
  });
});

for (const radio of document.querySelectorAll("input[name=transport]")) {
  radio.addEventListener("change", () => {
    localStorage.setItem("holdfast:transport", radio.value);
    if (!shown || ["cut", "ended", "failed"].includes(shown.state)) return;
    shown.why = radio.value === "ws" ? "switched to WebSocket" : "switched to SSE";
    connect();
  });
  radio.checked = radio.value === (localStorage.getItem("holdfast:transport") ?? "sse");
}

for (const panel of [$("story"), $("log")]) {
  panel.addEventListener("scroll", () => {
    const below = panel.scrollHeight - panel.scrollTop - panel.clientHeight;
    if (scrolling ? below > 160 : below < 40) scroll(!scrolling);
  });
}

$("follow").addEventListener("click", () => {
  scroll(true);
  showDelivery();
});

document.querySelector("[role=tablist]").addEventListener("click", ({ target }) => {
  if (target.role === "tab") choose(target.id.slice(4));
});

document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
  next.focus();
  choose(next.id.slice(4));
});

const dark = matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  $("theme").setAttribute("aria-pressed", String(now === "dark"));
  return now;
}

$("theme").addEventListener("click", () => {
  const next = showTheme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  localStorage.setItem("holdfast:theme", next);
  showTheme();
});

dark.addEventListener("change", showTheme);
addEventListener("hashchange", showHash);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(() => document.hidden || refresh(), REFRESH_MS);

showTheme();
await refresh();
if (!session) tell("The server did not answer. This page goes on when it does.");
