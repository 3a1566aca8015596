"""``res.users``: the sessions of a user, on their form."""

from odoo import fields, models


class ResUsers(models.Model):
    _inherit = "res.users"

    redis_session_count = fields.Integer(
        "Sessions",
        compute="_compute_redis_session_count",
        groups="base.group_system",
        help="Live sessions of this user, on all nodes. Zero while Redis does not answer.",
    )

    def _compute_redis_session_count(self):
        for user in self:
            user.redis_session_count = self.env["redis.overview"]._session_count(user.id)

    def action_redis_sessions(self):
        """Open the page with the sessions of this user only."""
        self.ensure_one()
        self.env["redis.overview"]._require_administrator()
        action = self.env["ir.actions.client"]._for_xml_id(
            "redis_session_ormcache.redis_overview_action"
        )
        return {**action, "context": {"redis_user_id": self.id}}
