// Keeps account of the numbers that the agent wrote into its events: each once, in order, or it says so.

export class Ledger {
  last = 0;
  doubled = 0;
  missing = 0;
  total = null; // known once the last event came

  /** Take the number of an event. */
  add(number, isLast) {
    if (number <= this.last) this.doubled += 1;
    else {
      this.missing += number - this.last - 1;
      this.last = number;
    }
    if (isLast) this.total = number;
  }

  get sound() {
    return this.doubled === 0 && this.missing === 0;
  }

  /** What to say of them: the fact, and the verdict on it. */
  get words() {
    if (this.last === 0) return ["No events yet", "They will be counted here."];
    const fact = this.total === null ? `Events 1 to ${this.last}` : `All ${this.total} events`;
    if (this.sound) return [fact, "each once, in order."];
    return [fact, `${this.missing} missing, ${this.doubled} doubled or out of order.`];
  }

  toString() {
    return this.words.join(", ");
  }
}
