"""Building blocks on plain torch that losses, weighting and networks share."""
