"""The project file, the steps it declares, and running only those whose result is not known."""
