"""The configuration of holdfast: every variable, what it may hold, and who set it.

Only what stands in this package reads the environment; everything else takes a :class:`Settings`.
"""

from holdfast.settings.environment import fill_environment as fill_environment
from holdfast.settings.environment import fingerprint as fingerprint
from holdfast.settings.redis_url import RedisTarget as RedisTarget
from holdfast.settings.settings import Settings as Settings
from holdfast.settings.table import MAKE_A_KEY as MAKE_A_KEY
from holdfast.settings.table import PREFIX as PREFIX
from holdfast.settings.words import Variable as Variable
