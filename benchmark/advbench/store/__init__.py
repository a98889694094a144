"""What is kept: artifacts by content, cell records, the ledger of a run."""
