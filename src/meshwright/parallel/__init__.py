"""How is the model split? Data and sharded-data parallelism, applied to an unmodified module."""
