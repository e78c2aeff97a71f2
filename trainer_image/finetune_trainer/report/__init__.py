"""What a stage tells the outside: events on stdout, progress pushes, curves, last words."""
