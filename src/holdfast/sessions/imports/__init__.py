"""Sessions that another package wrote, read once so that moving over logs nobody out."""
