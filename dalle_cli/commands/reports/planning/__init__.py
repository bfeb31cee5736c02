"""What `dalle train` and forecasts say."""
