"""While Redis is away, and when it is back: what serves, what waits, and what is made good."""
