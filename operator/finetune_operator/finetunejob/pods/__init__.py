"""What is wrong with the pods of a stage, and how they are stopped and started."""
