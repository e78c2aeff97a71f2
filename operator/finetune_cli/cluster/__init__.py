"""What the commands do on a cluster, over the user's kubeconfig."""
