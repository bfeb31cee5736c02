"""Folders that `dalle data encode` wrote, as sources: something else in place of each picture."""
