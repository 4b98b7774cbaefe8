// The types of holdfast.js: the contract of every option and callback.

/** A JSON value. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

/** One event of a run. `run_id` and `created_at` are there on a holdfast stream, not on a foreign one. */
export interface RunEvent<Data = Json> {
  kind: "event";
  /** A position: what follows this event is asked for with it. Opaque, to be compared for equality only. */
  id: string;
  type: string;
  data: Data;
  /** Which run it is of, where several are followed. */
  run_id?: string;
  /** RFC 3339, UTC, with milliseconds. */
  created_at?: string;
}

/** Events after `requested` are no longer kept; the rest follows, from `earliest` on. */
export interface Gap {
  kind: "gap";
  run_id: string;
  requested: string | null;
  earliest: string | null;
}

/** The position is not of this run as it is now: drop what is shown, the run follows from its start. */
export interface Reset {
  kind: "reset";
  run_id: string;
  requested: string | null;
  earliest: string | null;
}

/** One of several runs is over: by its end, or because it cannot be read (any more), see its `code`. */
export interface RunEnd {
  kind: "end" | "error" | "denied";
  run_id: string;
  /** Of an error, such as `RUN_NOT_FOUND`, `RUN_EXPIRED`, `UNAUTHORIZED` or `FORBIDDEN`. */
  code?: string;
}

/** Why it will not come back: an HTTP status, and the `code` and `title` of the problem where it had any. */
export interface Refusal {
  status: number;
  code?: string;
  title?: string;
}

/**
 * - `connecting`: a connection is being opened
 * - `live`: connected
 * - `waiting`: the connection was lost or not to be had; the next try comes after a jittered delay
 * - `ended`: the run is over and all of it was handed over
 * - `failed`: refused for good, see the {@link Refusal}
 * - `closed`: by `close()` or the signal
 */
export type State = "connecting" | "live" | "waiting" | "ended" | "failed" | "closed";

export interface Options<Page = Json> {
  /** How to read. Default `"sse"`, by `fetch`, with the token in a header. With `"ws"` it is in the URL. */
  transport?: "sse" | "ws";
  /**
   * The token, or how to get one. The function is called before the first connection, and again, with
   * `refused: true`, after a token was refused or has expired; where it throws, it is asked again later.
   * A token that is refused twice running ends in `failed`. Default: the `token` in the address.
   */
  token?: string | ((request: { refused: boolean }) => string | null | Promise<string | null>);
  /**
   * Follow these runs over one connection, at most 100; the address is then that of many,
   * `…/events/stream`. Each event, gap and reset has its `run_id`.
   */
  runs?: string[];
  /** Begin after this event. Default: what `remember` kept, else the start of the run. */
  lastId?: string;
  /**
   * Keep the position in `sessionStorage` when the page is hidden or left, and go on there after a
   * refresh. A function returns what the page shows, as JSON; it is kept with the position and handed to
   * `onRestore`. `true` keeps the position alone: for pages that keep what they show by themselves.
   * Default: every refresh begins at the start and gets the whole run.
   */
  remember?: boolean | (() => Page);
  /** Ends it as `close()` does. */
  signal?: AbortSignal;
  /** Milliseconds without a sign of life after which a connection is given up. Default 40000. */
  silence?: number;
  /** The longest delay between two tries, in milliseconds. Default 30000; the first is at most 500. */
  maxDelay?: number;
  /** As of `fetch`: `"include"` sends cookies to another origin. */
  credentials?: RequestCredentials;

  /** Every event, once and in order. */
  onEvent?(event: RunEvent): void;
  onGap?(gap: Gap): void;
  onReset?(reset: Reset): void;
  /** One of `runs` is over; the others go on. */
  onRunEnd?(end: RunEnd): void;
  /** The run is over, or all of them are, and every event was handed over. Nothing is called after this. */
  onEnd?(): void;
  onState?(state: State, refusal?: Refusal): void;
  /** Before anything else after a refresh: what the function in `remember` had returned. */
  onRestore?(page: Page): void;
}

export interface Following {
  readonly state: State;
  /** The position after the last event handed to `onEvent`, in all runs; empty before the first. */
  readonly lastId: string;
  /** Leave. The run goes on without this reader. */
  close(): void;
  /** Give up the connection and open another one at once. */
  reconnect(): void;
  /**
   * Follow this run too; only where `runs` were given, and until all of them are over. One more than 100
   * is told to `onRunEnd` with the code `TOO_MANY_RUNS`.
   */
  add(run: string): void;
  /** Follow it no more. Added again, it goes on where it was. Dropping the last one is `close()`. */
  drop(run: string): void;
  /**
   * Ask the run to stop, which its publisher learns at once; a run that has ended needs no asking. The
   * token has to grant the action `stop`. Rejects with a {@link Refusal} where it cannot be asked.
   *
   * @param run one of `runs`; none where a single run is followed.
   */
  stop(run?: string): Promise<void>;
}

/**
 * Follow a run, or several.
 *
 * @param address the run's stream, `…/runs/{run_id}/events/stream`; with `runs` that of many,
 *   `…/events/stream`; or with `transport: "sse"` any address that answers GET with an event stream.
 *   Relative to the page.
 */
export function follow<Page = Json>(address: string | URL, options?: Options<Page>): Following;
