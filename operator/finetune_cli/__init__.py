"""The ``finetune`` command: write, check, run and try a FineTuneJob, here or on a cluster.

``kubectl-finetune`` is the same program. It never imports torch; boto3 and the Kubernetes client
load only in the commands that need them.
"""
