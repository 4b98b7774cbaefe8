"""One request's session, of no protocol: opened, compared, decided upon and committed."""
