"""In what numbers, by which kernels? The same mathematics in its fastest form, and precision where it is allowed."""
