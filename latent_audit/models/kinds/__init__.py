"""Families whose layers differ in shape: what each kind of layer does, and the switch that runs them."""
