"""Files that go into a bundle as they are: they run there by themselves and import nothing of the house."""
