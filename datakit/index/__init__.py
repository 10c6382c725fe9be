"""Neighbours over an embedding column: built, tuned, filtered, kept up to date."""
