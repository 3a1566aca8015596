"""``/redis/metrics``: what Prometheus reads, for who has the token."""

import hmac

from odoo.http import Controller, request, route

from ..http_patch import bookkeeping
from ..operation import metrics


class RedisMetrics(Controller):
    """Imported where ``metrics_token`` is set."""

    @route("/redis/metrics", type="http", auth="none", methods=["GET"], save_session=False)
    def metrics(self):
        """All metrics of all nodes; 401 without the token.

        It needs neither a session nor a database, and says that Redis is away where that is so.
        """
        told = request.httprequest.headers.get("Authorization", "")
        wanted = f"Bearer {bookkeeping.metrics_token}"
        if not hmac.compare_digest(told.encode(), wanted.encode()):
            headers = [("WWW-Authenticate", "Bearer"), ("Cache-Control", "no-store")]
            return request.make_response("401 Unauthorized\n", headers=headers, status=401)
        page = metrics.exposition(bookkeeping.books)
        headers = [("Content-Type", metrics.CONTENT_TYPE), ("Cache-Control", "no-store")]
        return request.make_response(page, headers=headers)
