"""Machines: which GPUs a job holds, what a cluster can run, what it says was used. Knows nothing of studies."""
