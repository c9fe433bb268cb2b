"""What `make bench` runs: pairs of things measured in turns on this machine, and how cost grows with the data."""
