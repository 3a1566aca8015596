"""Minutes of work while Redis fails in all ways."""
