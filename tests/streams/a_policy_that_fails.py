"""A module that cannot be imported, as an app's own may be."""

raise ZeroDivisionError
