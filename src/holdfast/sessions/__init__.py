"""Sessions: a signed cookie, a dict, and a store behind it. Streams are not known here."""
