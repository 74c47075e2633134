"""What tuning/apply, tuning/check and tuning/nic have in common. Python 3.11 or newer and nothing else."""
