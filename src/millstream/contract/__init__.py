"""Values, ports, errors and the clock: all that a plugin author needs, and nothing else."""
