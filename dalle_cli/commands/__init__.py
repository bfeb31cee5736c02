"""One module per subcommand: wiring only. Commands never import one another."""
