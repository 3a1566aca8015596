"""Routes. They are imported where they are switched on, and not with the addon."""
