"""``res.device.log``: sessions that the books may lack, which get them every ten seconds."""

from typing import Any

from ..keys import is_valid_identifier
from ..operation import Seen

# Older rows are left out: those of a copied database name sessions of the original.
_NEW = """
    SELECT session_identifier, user_id, extract(epoch FROM last_activity)::float8
    FROM res_device_log
    WHERE user_id IS NOT NULL AND first_activity >= now() AT TIME ZONE 'UTC' - interval '10 minutes'
"""


def new_sessions(cursor: Any) -> list[Seen]:
    """Sessions of the last ten minutes, in a cursor's database."""
    cursor.execute(_NEW)
    return [Seen(*row) for row in cursor.fetchall() if is_valid_identifier(row[0])]
