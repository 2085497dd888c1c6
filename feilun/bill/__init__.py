"""Usage to rated lines to invoices; what each tenant costs; what stands behind a line."""
