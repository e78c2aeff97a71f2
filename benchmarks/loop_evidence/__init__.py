"""Simulations of a watched endpoint: false alarms, delays, and intervals of live quality."""
