"""Which tables cached values are computed from, and what tells one state of a table from another.

A signal tells of a change that was made through the ORM. SQL, a shell that commits, ``odoo i18n``
and ``odoo neutralize`` change rows and signal nothing; in stock Odoo a restart drops what was
computed before. So the state of these tables is a part of a generation: a process that starts after
such a change sees another generation than the processes whose values are older.

The state of a table is the number of its rows and the sum of their ``xmin``. A row that changes
gets a higher ``xmin`` than any row had before, so a state never comes back.

Pure: no I/O, and nothing of Odoo but names of tables and of ormcache's containers.

>>> table_of("res_lang WHERE active"), covers("default", "res_lang")
('res_lang', True)
>>> states_of({"website_page": "92 80415", "res_lang": "7 3"})["templates.cached_values"]
'7 3|92 80415'
"""

from collections.abc import Mapping

# Tables that modules define: to change them through the ORM reloads the registry. Other external
# identifiers come and go with imports and exports.
MODULES = (
    "ir_module_module",
    "ir_module_category",
    "ir_model",
    "ir_model_fields",
    "ir_model_fields_selection",
    "ir_model_data WHERE module IN (SELECT name FROM ir_module_module WHERE state = 'installed')",
)
_GROUPS = ("res_groups", "res_groups_implied_rel", "res_groups_privilege")
_ACCESS = ("ir_model_access", "ir_rule", "rule_group_rel")
_STABLE = (
    *_GROUPS,
    *_ACCESS,
    "account_analytic_plan",
    "decimal_precision",
    "ir_attachment WHERE res_model IN ('ir.module.module', 'res.lang')",
    "ir_config_parameter",
    "properties_base_definition",
    "res_country",
    "res_country_group",
    "res_country_res_country_group_rel",
    "res_currency",
    "res_lang",
)
_DEFAULT = (
    *_STABLE,
    "crm_reveal_rule",
    "ir_act_server_group_rel",
    "ir_act_window_group_rel",
    "ir_act_window_view",
    "ir_actions",  # with the tables that inherit from it
    "ir_attachment WHERE res_model = 'ir.ui.menu'",
    "ir_ui_menu",
    "ir_ui_menu_group_rel",
    "mail_message_subtype",
    "product_pricelist",
    "res_company",
    "res_company_users_rel",
    "res_groups_report_rel",
    "res_groups_users_rel",
    "res_users",
    "website",
    "website_country_group_rel",
    "website_lang_rel",
)
_TEMPLATES = (
    *_GROUPS,
    *_ACCESS,
    "ir_ui_view",
    "ir_ui_view_group_rel",
    "res_company",
    "res_country",
    "res_groups_website_menu_rel",
    "res_partner WHERE id IN (SELECT partner_id FROM res_company)",
    "website",
    "website_menu",
)
_ASSETS = (
    "ir_asset",
    r"ir_attachment WHERE url LIKE '/\_custom/%'",
    "website",
)
_PAGES = ("website_controller_page", "website_page")

SOURCES: dict[str, tuple[str, ...]] = {
    "stable": (*MODULES, *_STABLE),
    "default": (*MODULES, *_DEFAULT),
    "groups": (*MODULES, *_GROUPS, *_ACCESS),
    "templates": (*MODULES, *_TEMPLATES),
    "assets": (*MODULES, *_ASSETS),
    "templates.cached_values": (*MODULES, *_DEFAULT, *_TEMPLATES, *_ASSETS, *_PAGES),
}
"""Per container, what its values are computed from, directly or by way of other cached values: SQL
after ``FROM``. A table that changes without clearing the container has no place here, because each
change would part the processes that started before from those that start after it; what is computed
from such a table stays local (``policy.LOCAL_METHODS``).

A method of any model is taken to read that model's own table too: where it is not listed here, its
state is a part of the names of the method's fields."""

_XMIN = "sum(age('3'::xid)::int8 - age(xmin))"  # age() is an integer; xmin itself can't be summed
# The only columns that matter, where a table has others that change often.
_COLUMNS = {
    "res_users": (
        "sum(hashint8(id::int8 << 32 | partner_id)::int8) || ' ' ||"
        " sum(hashint8(id::int8 << 32 | company_id * 2 + active::int)::int8)"
    ),
}


MOST_BYTES = 16 * 2**20  # of a table whose state is asked for besides: 10 ms


def every() -> list[str]:
    """All sources, each once."""
    return list(dict.fromkeys(source for sources in SOURCES.values() for source in sources))


def covers(container: str, table: str) -> bool:
    """Whether a container's sources have rows of a table."""
    return any(table_of(source) == table for source in SOURCES.get(container, ()))


def state(source: str) -> str:
    """SQL, between parentheses: the state of a source, text."""
    columns = _COLUMNS.get(table_of(source), _XMIN)
    return f"(SELECT concat_ws(' ', count(*), {columns}) FROM {source})"


def states_of(found: Mapping[str, str]) -> dict[str, str]:
    """Per container, the states of its sources.

    :param found: per source of those whose tables exist, what the database said
    """
    return {
        container: "|".join(found[source] for source in dict.fromkeys(sources) if source in found)
        for container, sources in SOURCES.items()
    }


def table_of(source: str) -> str:
    """The name of a source's table."""
    return source.partition(" ")[0]
