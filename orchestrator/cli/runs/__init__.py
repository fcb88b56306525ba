"""Other ways to run: one question (`solve`), and the price of a run (`dry_run`)."""
