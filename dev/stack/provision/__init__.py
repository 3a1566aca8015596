"""Making everything that the project needs to run."""
