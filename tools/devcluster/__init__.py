"""A real Kubernetes on one Linux host, built from pinned Go modules.

Two profiles:

* ``control-plane``: etcd, kube-apiserver and kube-controller-manager on loopback, ready in
  seconds, as many side by side as a test suite asks for. No root needed.
* ``node``: everything from certificates to a kubelet that runs pods, one per host, as root.

`devcluster.controlplane.ControlPlane` and `devcluster.node.Node` are the two objects;
``python -m devcluster up|down|status|load`` is the command line over them. ``README.md`` in this
folder is the how-to.
"""
