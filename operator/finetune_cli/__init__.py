"""The ``finetune`` command: write, check, run and try a FineTuneJob, here or on a cluster.

``kubectl-finetune`` is the same program, so that ``kubectl finetune`` works. Nothing here imports
torch; boto3 and the Kubernetes client load only in the commands that need them.
"""
