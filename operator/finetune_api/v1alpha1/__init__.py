"""Version v1alpha1 of the finetune.dev API group."""
