"""The link to Redis. Only this package imports redis-py, and its errors stop here.

Nothing of sessions or streams belongs in it; they give it commands and scripts, and get replies.
"""

from holdfast.link.link import Link
from holdfast.link.pubsub import Listener
from holdfast.link.script import Script
from holdfast.link.state import LinkState, LinkStatus
from holdfast.link.supervisor import Recovery
from holdfast.link.sync import Answers, Command
from holdfast.link.translate import Arg, Reply
from holdfast.link.waiting import ThreadListener

__all__ = [
    "Answers",
    "Arg",
    "Command",
    "Link",
    "LinkState",
    "LinkStatus",
    "Listener",
    "Recovery",
    "Reply",
    "Script",
    "ThreadListener",
]
