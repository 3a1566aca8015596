"""Users on a site, who notice everything."""

from .footprint import Footprint
from .site import Site
from .users import AWAY, LOGGED_OUT, RIGHT, UNAVAILABLE, WRONG, Answer, Crowd, User

__all__ = [
    "AWAY", "LOGGED_OUT", "RIGHT", "UNAVAILABLE", "WRONG",
    "Answer", "Crowd", "Footprint", "Site", "User",
]  # fmt: skip
