"""What is said of the shipped model of the tests, as its author would write it."""

ABOUT = """\
title = "Toy scenes"
draws = "toy scenes of one object"
data = "23 rendered scenes"
data_licence = "none needed"
training = "11 steps, in a second"
licence = "MIT"
limits = ["It has hardly been trained."]
captions = ["a blue ring", "a small red circle at the top left"]

[figures]
"pictures that show their caption" = "0 of 23"
"""
