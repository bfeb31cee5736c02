"""Scoring of pictures against captions with a CLIP, for reranking."""
