"""The shared ormcache, beside an Odoo without."""
