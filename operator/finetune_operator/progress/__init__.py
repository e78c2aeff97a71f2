"""The endpoint that trainers push their progress to. Works on every replica, leader or not."""
