"""A site of several hosts: one inventory file in, every file of every host out, and what differs on a host."""
