"""What the priors and the decoder of DALL-E 2 train on: pairs, and embeddings of pairs."""
