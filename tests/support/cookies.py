"""Strategies of hypothesis for what somebody may send as a cookie."""

import string

from hypothesis import strategies as st

SID = string.ascii_letters + string.digits + "_-"


def texts(alphabet, least, most):
    """Texts of so many characters. Bytes are one draw, those of ``st.text`` one each: it takes
    longer than the request."""
    raw = st.binary(min_size=least, max_size=most)
    return raw.map(lambda raw: "".join(alphabet[byte % len(alphabet)] for byte in raw))
