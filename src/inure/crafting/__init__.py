"""Tricks that act only while adversarial examples are crafted (see ``types.Crafting``). None is built yet."""
