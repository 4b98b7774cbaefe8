"""What models and agents emit, as events of a run; and a run, as what their clients understand.

One module for each library or format, imported by whoever uses it; nothing is imported here.
"""
