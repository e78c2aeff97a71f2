"""TensorBoard: event files beside the run, written with the standard library."""
