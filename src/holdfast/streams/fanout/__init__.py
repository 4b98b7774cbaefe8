"""One reader of the store for all subscribers of a process: hub, rings and cursors. No request."""
