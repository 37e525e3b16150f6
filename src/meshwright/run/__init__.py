"""Who does the steps? The step, its batches, the worker process, the trial and the proof."""
