"""What a person sees: tables, plots, the live line. Drawing only; every number comes in."""
