"""A store in the layouts of other tools, one file a layout."""
