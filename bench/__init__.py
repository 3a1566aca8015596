"""Benchmarks: `bench/ormcache/run`, `bench/sessions/run`, `bench/soak/run`."""
