"""Train and sample the original DALL-E (Ramesh et al. 2021) from the shell."""

__version__ = "0.2.0.dev0"
