"""Where sessions meet a protocol: ASGI and WSGI, their headers, and what ends with a session."""
