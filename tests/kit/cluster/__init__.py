"""Parts of a cluster: API client, kubelet, objects and recorded traces."""
