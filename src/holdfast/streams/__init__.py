"""Event streams: the events of a run, kept in order, pushed to readers, resumed where they were."""
