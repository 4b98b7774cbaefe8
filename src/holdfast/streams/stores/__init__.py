"""Where events are kept, and what each place needs to keep its word. No reader, no request."""
