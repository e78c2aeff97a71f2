"""The `control-plane` profile: etcd and Kubernetes' servers on loopback, without root."""
