"""The command line: options, help and exit codes.

Imports no torch, so that help and mistakes are answered at once.
"""
