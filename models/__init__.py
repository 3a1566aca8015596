"""The back office, in databases where the addon is installed. ``post_load`` imports it."""

from . import redis_overview, res_users
