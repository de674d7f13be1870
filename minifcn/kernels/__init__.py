"""How the operations are made fast. The mathematics is in minifcn.functional."""
