"""Recipes: one file each, read like a method section."""
