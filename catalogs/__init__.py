"""Catalogs: one TOML file a data set."""
