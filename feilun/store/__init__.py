"""What is kept: artefacts in a folder, events and their ledger in a database."""
