"""The reference training loops (torch)."""
