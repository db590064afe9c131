"""How text becomes typed values, and what is said when it does not."""
