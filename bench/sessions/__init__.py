"""The session store, beside others."""
