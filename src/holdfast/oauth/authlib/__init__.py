"""Authlib's clients with our state store in place of its own: one module per framework.

``holdfast.oauth.authlib.starlette`` (FastAPI too) and ``holdfast.oauth.authlib.flask`` each have
an ``OAuth`` that takes the place of Authlib's class of that name; only the import changes.
"""
