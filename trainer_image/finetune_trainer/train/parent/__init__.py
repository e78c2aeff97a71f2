"""The parent process of a run: starts and watches ranks, stores their files."""
