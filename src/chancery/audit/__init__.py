"""The Merkle journal, its checkpoints and their auditor."""
