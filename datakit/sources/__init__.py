"""Readers: one file a layout of upstream data; each lists entries, copies nothing."""
