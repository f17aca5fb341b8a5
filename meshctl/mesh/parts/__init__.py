"""The stateful parts of the mesh, embedded: real servers from wheels, on the loopback interface."""
