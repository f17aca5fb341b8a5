"""What the rest of meshctl builds on: the data folder, deployables, files, ports, failures, the terminal."""
