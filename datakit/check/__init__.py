"""Checks: one file a claim about a build."""
