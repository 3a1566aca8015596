"""Somebody who is logged in."""

from __future__ import annotations

import re

import requests


def log_in(url: str, authority: object = True) -> str:
    """The cookie of somebody who is logged in.

    :param authority: what TLS is checked with, as ``requests`` takes it
    """
    with requests.Session() as http:
        http.trust_env, http.verify = False, authority  # type: ignore[assignment]
        page = http.get(f"{url}/web/login", timeout=60).text
        found = re.search(r'name="csrf_token" value="(\w+)"', page)
        token = found[1] if found else ""
        form = {"login": "admin", "password": "admin", "csrf_token": token}
        http.post(f"{url}/web/login", data=form, timeout=60).raise_for_status()
        return f"session_id={http.cookies['session_id']}"
