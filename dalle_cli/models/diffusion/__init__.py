"""Gaussian diffusion: schedules, losses and samplers, for any network and any shape of sample."""
