"""The sub-app on WSGI servers: no policy, only the way from their threads to an event loop."""
