"""Reading the weights of other projects and renaming them to the names used here."""
