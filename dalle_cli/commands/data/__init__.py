"""The subcommands of `dalle data`."""
