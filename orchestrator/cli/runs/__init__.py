"""How runs end (`closing`), and other ways to run: one question (`solve`), a price (`dry_run`)."""
