"""A job on Flask that a page watches while it works, over a refresh and a redeploy.

    pip install 'holdfast[flask]' gunicorn
    export HOLDFAST_REDIS_URL=redis://localhost:6379/0 HOLDFAST_SECRET_KEY=...
    gunicorn --workers 2 --threads 16 flask_streams:app

Without the two variables it runs in memory, for one process: ``flask --app flask_streams run``. The
thread stands for a task of Celery, RQ or Dramatiq, which says the same and outlives a redeploy.
"""

from __future__ import annotations

import os
import secrets
import threading
import time

import flask
from flask import Flask

from holdfast import Holdfast, SyncRunPublisher, stream_token

TEXT = "A holdfast is what keeps kelp on its rock through a storm"
SECONDS_PER_WORD = float(os.environ.get("SECONDS_PER_WORD", "0.5"))

app = Flask(__name__)
Holdfast(app)  # sessions, and the streams at /streams


def spell(run_id: str) -> None:
    """Say the text word by word. Leaving the block ends the run, whatever happens."""
    with SyncRunPublisher(run_id) as run:
        for word in TEXT.split():
            run.emit("word", {"word": word})  # after a stop this leaves the block
            time.sleep(SECONDS_PER_WORD)


@app.post("/jobs")
def start() -> dict[str, str]:
    """Begin a job, and say where it is watched; a refresh of the page finds it again."""
    run_id = f"spell-{secrets.token_hex(8)}"  # an id is used once
    threading.Thread(target=spell, args=[run_id], daemon=True).start()
    flask.session["run"] = run_id
    return job(run_id)


@app.get("/jobs")
def running() -> dict[str, str] | tuple[str, int]:
    """Say where the visitor's own job is watched."""
    return job(flask.session["run"]) if "run" in flask.session else ("no job yet\n", 404)


def job(run_id: str) -> dict[str, str]:
    token = stream_token(run_id, actions=("read", "stop"))
    return {"url": f"/streams/runs/{run_id}", "token": token}


@app.get("/")
def page() -> str:
    """Show the job of this visitor."""
    return PAGE


PAGE = """<!doctype html>
<meta charset=utf-8>
<title>A job on Flask</title>
<button id=start>Start</button> <button id=stop>Stop</button>
<p id=words></p>
<script>
let job;
function watch(found) {
  job = found;
  words.textContent = "";
  const events = new EventSource(`${job.url}/events/stream?token=${job.token}`);
  events.addEventListener("word", event => {
    words.textContent += JSON.parse(event.data).word + " ";
  });
  // What ends a run; EventSource itself would come back once more, to be told that it is over.
  for (const end of ["workflow_complete", "workflow_error", "run_stopped", "run_lost"])
    events.addEventListener(end, () => events.close());
}
start.onclick = async () => watch(await (await fetch("/jobs", {method: "POST"})).json());
stop.onclick = () => fetch(`${job.url}/stop?token=${job.token}`, {method: "POST"});
fetch("/jobs").then(async answer => { if (answer.ok) watch(await answer.json()); });
</script>
"""
