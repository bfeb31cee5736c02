"""The parts of an evaluation: figures that are measured together, and the protocol of each."""
