"""What HTTP and WebSocket ask of a run: from a request to its checks, its operation, its answer."""
