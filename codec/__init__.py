"""Bytes that Redis holds, and what they mean."""
