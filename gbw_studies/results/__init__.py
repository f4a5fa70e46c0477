"""Tables and plots of the results of runs."""
