"""The commands of DALL-E 2 that no other model has, and the options of those that it shares."""
