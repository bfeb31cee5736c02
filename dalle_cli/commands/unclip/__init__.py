"""Commands of DALL-E 2 that no other model has."""
