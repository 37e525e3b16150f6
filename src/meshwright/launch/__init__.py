"""Where does it run? Planning and training processes on this machine, under torchrun, under Slurm."""
