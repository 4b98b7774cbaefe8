"""The example with a provider that answers by a POST from its own page."""

from tests.oauth.provider import example

example().main(form_post=True)
