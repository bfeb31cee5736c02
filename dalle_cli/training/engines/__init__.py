"""Engines: who computes an update, one process, several replicas, or DeepSpeed's ZeRO."""
