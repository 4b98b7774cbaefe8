"""What writes a run, in this process: publishers, detached runs and their stop. No request."""
