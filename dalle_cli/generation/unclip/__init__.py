"""DALL-E 2: captions and pictures to embeddings, and embeddings to pictures."""
