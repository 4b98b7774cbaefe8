"""One-line mutations: each takes a guard away, and a named test has to notice."""
