"""Ways of tuning: what of a model trains."""
