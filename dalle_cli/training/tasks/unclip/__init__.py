"""What DALL-E 2's priors and decoder are trained for, with a frozen CLIP."""
