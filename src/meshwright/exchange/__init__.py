"""How do workers agree? Gradients summed in buckets while the backward goes on."""
