"""What is evaluated: runs, files of yours, stored images, sets; and what is said of it."""
