"""What all of meshctl stands on: the data folder, deployables, files, ports, failures, the terminal."""
