//! Moves frames: batches, stages, the pipeline, pollers and packet I/O.
