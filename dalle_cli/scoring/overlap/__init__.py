"""Which pictures of two data sets are the same, for `dalle data overlap`."""
