"""What tests share and pytest does not find by itself: real servers, a real browser."""
