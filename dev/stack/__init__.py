"""The development stack: a private environment and real servers in it."""
