"""Reports of verifications and audits: documents that are checked against their own numbers, and their pages."""
