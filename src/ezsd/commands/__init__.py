"""The commands of ``ezsd`` that need code of their own, one module each."""
