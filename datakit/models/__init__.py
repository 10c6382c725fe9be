"""The only loaders of weights."""
