"""The page to look at a store and its indices: loopback, no code of others."""
