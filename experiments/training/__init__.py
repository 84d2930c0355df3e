"""What a run is made of besides model and data: checkpoints, resume, loggers, callbacks, its folder."""
